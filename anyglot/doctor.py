"""`anyglot doctor`: what this machine has for training and generating, and what to install for the rest.

Nothing is compiled and nothing is downloaded.
"""

import ast
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from anyglot import __version__, assets


@dataclass(frozen=True)
class Finding:
    """One line. ok: False = missing and worth having, None = merely a fact; hint: how to mend it."""

    topic: str
    name: str
    value: str
    ok: bool | None = None
    hint: str = ""


def findings() -> list[Finding]:
    """Everything there is to say, in the order it is shown. Takes a few seconds: torch is imported and timed."""
    return [*_machine(), *_torch(), *_deepspeed(), *_attention(), *_audio(), *_extras(), *_assets()]


def extras() -> dict[str, list[str]]:
    """The package's optional dependencies by the extra that installs them."""
    found: dict[str, list[str]] = {}
    try:
        lines = metadata.requires("anyglot") or []
    except metadata.PackageNotFoundError:  # run from a folder of sources, not installed
        lines = []
    for line in lines:
        if match := re.match(r"([\w.-]+).*\bextra\s*==\s*['\"]([\w-]+)['\"]", line):
            found.setdefault(match[2], []).append(match[1])
    return found


def extra_of(module: str | None) -> str:
    """The extra that installs a missing module ("" if none does)."""
    wanted = (module or "").partition(".")[0].replace("_", "-").lower()
    return next((extra for extra, names in extras().items() if wanted in map(str.lower, names)), "")


def show(as_json: bool) -> None:
    """Print the findings as a table or as JSON."""
    found = findings()
    if as_json:
        import json

        print(json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column()
    marks = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}
    topic = ""
    for finding in found:
        if finding.topic != topic:
            topic = finding.topic
            table.add_row(f"[bold]{topic}[/]")
        value = escape(finding.value) + (f" [dim]({escape(finding.hint)})[/]" if finding.hint else "")
        table.add_row(f"  {escape(finding.name)}", value, marks[finding.ok])
    Console().print(table)


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "anyglot", __version__)
    yield Finding("machine", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("machine", "cores", f"{cores}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    yield Finding("machine", "memory", f"{memory:.0f} GiB")


def _torch() -> Iterator[Finding]:
    import torch

    from anyglot.train.device import has_fast_bf16, local_device, matmul_flops

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding("torch", "torch", f"{torch.__version__}, built for {build}", True)
    device = local_device()
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            value = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
            yield Finding("torch", f"accelerator {index}", value, True)
    else:
        yield Finding("torch", "accelerator", "none, everything runs on the CPU", False)
    fast = has_fast_bf16(device)
    single, half = (matmul_flops(dtype, device) / 1e9 for dtype in (torch.float32, torch.bfloat16))
    speed = f"{half:,.0f} GFLOP/s, {half / single:.1f} times fp32's {single:,.0f}"
    yield Finding("torch", "bf16", speed, fast, "" if fast else "no matrix units for it: `precision: auto` takes fp32")


def _deepspeed() -> Iterator[Finding]:
    version = _version("deepspeed")
    yield Finding(
        "deepspeed", "deepspeed", version or "not installed", bool(version), "" if version else "pip install deepspeed"
    )
    if not version:
        return
    built = sorted(name for name, there in _installed_ops().items() if there)
    yield Finding("deepspeed", "ops built in", ", ".join(built) or "none", None, "the torch optimizers need none")
    tools = {tool: shutil.which(tool) is not None for tool in ("g++", "ninja", "nvcc")}
    yield Finding("deepspeed", "compilers for ops", ", ".join(t for t, there in tools.items() if there) or "none")
    yield Finding("deepspeed", "launchers", ", ".join(t for t in ("deepspeed", "torchrun") if _script(t)) or "none")


def _installed_ops() -> dict[str, bool]:
    """Ops that DeepSpeed was installed with, read from its record: importing or probing it may start a compiler."""
    spec = importlib.util.find_spec("deepspeed")
    record = Path(next(iter(spec.submodule_search_locations or []))) / "git_version_info_installed.py" if spec else None
    if record is None or not record.is_file():
        return {}
    for node in ast.parse(record.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "installed_ops":
            return dict(ast.literal_eval(node.value))
    return {}


def _attention() -> Iterator[Finding]:
    version = _version("flash-attn")
    hint = "" if version else "optional: torch's own attention is used"
    yield Finding("attention", "flash-attn", version or "not installed", bool(version) or None, hint)


def _audio() -> Iterator[Finding]:
    try:
        import torchaudio
    except Exception as error:  # a build that does not fit torch fails with OSError, RuntimeError or ImportError
        reason = " ".join(str(error).split())[:120]
        yield Finding(
            "audio", "torchaudio", f"does not load: {reason}", False, "install the build that goes with torch"
        )
    else:
        yield Finding("audio", "torchaudio", torchaudio.__version__, True)
    version = _version("soundfile")
    yield Finding(
        "audio", "soundfile", version or "not installed", bool(version), "" if version else "pip install soundfile"
    )


def _extras() -> Iterator[Finding]:
    for extra, names in extras().items():
        for name in names:
            version = _version(name)
            hint = "" if version else f"pip install 'anyglot[{extra}]'"
            yield Finding(f"extra: {extra}", name, version or "not installed", bool(version), hint)


def _assets() -> Iterator[Finding]:
    for asset in assets.table().values():
        there = assets.cached(asset.name)
        value = f"{asset.version}, {'on this machine' if there else 'not here yet'}: {asset.use}"
        yield Finding("assets", asset.name, value, there, "" if there else "downloaded when first needed")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _script(name: str) -> bool:
    return (Path(sys.executable).parent / name).exists() or shutil.which(name) is not None
