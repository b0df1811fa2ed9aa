"""The switches of stability at work: one small model trained by our loop at rising learning rates, switch by switch.

    python scripts/bench_stability.py [--store runs/demo/tokens/names] [--heldout runs/demo/tokens/heldout] [--missing]

After "Small-scale proxies for large-scale Transformer training instabilities" (arXiv 2309.14322): what a large model
suffers from at its learning rate, a small one suffers from at a higher one. Then AdamW beside Muon, and what the loss
is a mean of. Writes docs/results/stability.json after every run, and stability.md.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench.report import machine

from anyglot.config import typed
from anyglot.errors import AnyglotError
from anyglot.files import write_json, write_text
from anyglot.train.engine import process_group
from anyglot.train.log import read_log
from anyglot.train.pretrain import PretrainConfig, pretrain

Row = dict[str, Any]
MODEL = {"hidden": 64, "layers": 4, "heads": 4, "key_value_heads": 4, "intermediate": 192, "max_length": 256}
BARE = {"model.qk_norm": False, "z_loss": 0.0, "engine.gradient_clip": 0.0}
FULL = {"model.qk_norm": True, "z_loss": 1e-4, "engine.gradient_clip": 1.0}
SWITCHES: dict[str, Row] = {
    "none": BARE,
    "gradient clip 1": BARE | {"engine.gradient_clip": 1.0},
    "z-loss 1e-4": BARE | {"z_loss": 1e-4},
    "QK-norm": BARE | {"model.qk_norm": True},
    "all three (the defaults)": FULL,
    "defaults, norm: post": FULL | {"model.norm": "post"},
    "defaults, norm: sandwich": FULL | {"model.norm": "sandwich"},
    "defaults, norm: sandwich, soft cap 15": FULL | {"model.norm": "sandwich", "model.logit_softcap": 15.0},
    "defaults, dropout 0.1": FULL | {"model.dropout": 0.1},
}
RATES = (1e-2, 1e-1, 1.0)
OPTIMIZERS: dict[str, Row] = {
    **{f"AdamW, {rate:g}": {"engine.learning_rate": rate} for rate in (3e-3, 1e-2)},
    **{f"Muon, {rate:g}": {"engine.optimizer": "muon", "engine.muon_learning_rate": rate, "engine.learning_rate": 3e-3}
       for rate in (1e-2, 3e-2)},
}  # fmt: skip
MEANS: dict[str, Row] = {
    "token": {"normalise": "token"},
    "sample": {"normalise": "sample"},
    "modality": {"normalise": "modality"},
    "token, speech.1 to speech.3 x 0.1": {"modality_weights": {f"speech.{level}": 0.1 for level in (1, 2, 3)}},
}


def plan() -> list[Row]:
    """Every run: its section, its name, its settings."""
    runs = [
        {"section": "switches", "name": name, "rate": rate, "settings": settings | {"engine.learning_rate": rate}}
        for name, settings in SWITCHES.items()
        for rate in RATES
    ]
    runs += [{"section": "optimizers", "name": name, "settings": settings} for name, settings in OPTIMIZERS.items()]
    return runs + [{"section": "means", "name": name, "settings": settings} for name, settings in MEANS.items()]


def config_of(settings: Row, store: Path, heldout: Path, steps: int, out: str) -> PretrainConfig:
    """The run of `anyglot train` that these settings make."""
    mapping: Row = {
        "stage": "pretrain",
        "out": out,
        "data": {"stores": {"all": {"path": str(store)}}, "length": 256, "rows": 2},
        "heldout": {"all": str(heldout)},
        "model": dict(MODEL),
        "engine": {"learning_rate": 3e-3},
        "schedule": {"kind": "cosine", "warmup": 10, "final": 0.0},
        "precision": "fp32",
        "steps": steps,
        "log_every": 1,
        "evaluate_every": max(steps // 10, 1),
        "evaluate_batches": 4,
        "save_every": 10**9,
    }
    for key, value in settings.items():
        *path, last = key.split(".")
        where = mapping
        for name in path:
            where = where[name]
        where[last] = value
    return typed(PretrainConfig, mapping, "bench_stability")


def measure(run: Row, arguments: argparse.Namespace) -> Row:
    """Train, and say what came of it."""
    out = tempfile.mkdtemp(prefix="stability-")
    config = config_of(run["settings"], arguments.store, arguments.heldout, arguments.steps, out)
    began, stopped = time.process_time(), ""
    try:
        pretrain(config, 0, 1)
    except AnyglotError as error:
        stopped = str(error).split(";")[0]
    seconds = time.process_time() - began
    lines = read_log(out)
    shutil.rmtree(out)
    steps = [line for line in lines if "loss" in line]
    curve = [line for line in lines if "heldout/all/bits/image" in line]
    tail = steps[-10:]
    found: Row = {
        **run,
        "stopped": stopped,
        "steps": len(steps),
        "cpu_seconds": round(seconds, 1),
        "gradient_norm": max((line.get("gradient_norm") or 0.0 for line in steps), default=0.0),
        "log_z_max": max((line["log_z_max"] or 0.0 for line in steps), default=0.0),
        "logit_rms": steps[-1]["logit_rms"] if steps else None,
        "curve": [[line["step"], line["heldout/all/bits/image"], line["heldout/all/bits/speech"]] for line in curve],
        "shares": {key: sum(line.get(key, 0.0) for line in tail) / max(len(tail), 1)
                   for key in (tail[-1] if tail else {}) if key.startswith("gradient_share/")},
        "bits": {key.removeprefix("heldout/all/"): value for key, value in curve[-1].items() if "/bits/" in key}
        if curve and not stopped else {},
    }  # fmt: skip
    return found


def page(results: Row) -> str:
    """The results as Markdown."""
    rows = results["rows"]
    lines = ["# The switches of stability at work", "", results["about"]["what"], ""]
    lines += ["## Switch by switch, at rising learning rates", ""]
    switches = [row for row in rows if row["section"] == "switches"]
    rates = list(dict.fromkeys(row["rate"] for row in switches))
    lines += ["Held-out bits per code of pictures / of speech, lower is better; the best of a column is bold.", ""]
    lines += ["| switches | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |", "|---|" + "---|" * len(rates)]
    best = {rate: min((_sum(r) for r in switches if r["rate"] == rate and r["bits"]), default=None) for rate in rates}
    names = list(dict.fromkeys(row["name"] for row in switches))
    table = {(row["name"], row["rate"]): row for row in switches}
    for name in names:
        cells = [_cell(table.get((name, rate)), best[rate]) for rate in rates]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "What the monitors saw: the largest gradient norm before clipping / the largest log Z / the last", ""]
    lines[-2] += " root mean square of the logits."
    lines += ["| switches | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |", "|---|" + "---|" * len(rates)]
    for name in names:
        cells = [_monitors(table.get((name, rate))) for rate in rates]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## AdamW and Muon", ""]
    optimizers = [row for row in rows if row["section"] == "optimizers"]
    shortest = min((row["cpu_seconds"] for row in optimizers if not row["stopped"]), default=0.0)
    lines += [
        f"The defaults' switches. Equal seconds: the last evaluation within the {shortest:.0f} CPU seconds that",
        "",
    ]
    lines[-2] += " the fastest took, evaluations included."
    lines += ["| optimizer, rate | CPU s | at equal steps | at equal seconds |", "|---|---|---|---|"]
    for row in optimizers:
        last, equal = row["curve"][-1], _within(row, shortest)
        lines.append(f"| {row['name']} | {row['cpu_seconds']:.0f} | {_pair(last[1:])} | {_pair(equal[1:])} |")
    lines += ["", "## What the loss is a mean of", ""]
    means = [row for row in rows if row["section"] == "means"]
    columns = [key for key in means[0]["bits"] if key.startswith("bits/")] if means else []
    lines += ["Held-out bits per id, and in brackets the share of the gradient over the last ten steps.", ""]
    lines += ["| normalise | " + " | ".join(key.removeprefix("bits/") for key in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    for row in means:
        shares = {key.removeprefix("gradient_share/"): value for key, value in row["shares"].items()}
        cells = []
        for key in columns:
            name = key.removeprefix("bits/")
            cells.append(f"{row['bits'][key]:.2f}" + (f" ({100 * shares[name]:.0f} %)" if name in shares else ""))
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    about = {name: value for name, value in results["about"].items() if name != "what"}
    lines += ["", "## How it was made", "", *[f"- {name}: {value}" for name, value in about.items()]]
    return "\n".join([*lines, ""])


def _sum(row: Row) -> float:
    return float(row["bits"]["bits/image"] + row["bits"]["bits/speech"])


def _pair(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def _cell(row: Row | None, best: float | None) -> str:
    if row is None:
        return ""
    if not row["bits"]:
        return f"not finite at step {row['steps']}"
    found = _pair([row["bits"]["bits/image"], row["bits"]["bits/speech"]])
    return f"**{found}**" if _sum(row) == best else found


def _monitors(row: Row | None) -> str:
    if row is None or row["logit_rms"] is None:
        return ""
    return f"{row['gradient_norm']:.3g} / {row['log_z_max']:.3g} / {row['logit_rms']:.2g}"


def _within(row: Row, seconds: float) -> list[float]:
    """The last point of a run's curve that it had reached within `seconds`."""
    each = row["cpu_seconds"] / row["steps"]
    return [point for point in row["curve"] if point[0] * each <= seconds * 1.001][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs/demo/tokens/names"), help="token store, of the demo")
    parser.add_argument("--heldout", type=Path, default=Path("runs/demo/tokens/heldout"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", nargs="*", default=[], help="names of runs to make; all if none are given")
    parser.add_argument("--missing", action="store_true", help="make only runs that the results do not have yet")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "stability.json"
    known = json.loads(path.read_text("utf-8"))["rows"] if arguments.missing and path.exists() else []
    done = {(row["section"], row["name"], row.get("rate")): row for row in known}
    about = {
        "what": (
            f"A decoder of {MODEL['layers']} layers of width {MODEL['hidden']}, trained by `anyglot train`'s loop for "
            f"{arguments.steps} steps of 2 rows of 256 ids on words, pictures and speech of the demo, one seed: a "
            "difference of a few hundredths of a bit is none."
        ),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(torch.device("cpu")),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "deepspeed")},
    }
    rows: list[Row] = []
    with process_group():
        for run in plan():
            row = done.get((run["section"], run["name"], run.get("rate")))
            if row is None and (not arguments.only or run["name"] in arguments.only):
                row = measure(run, arguments)
                print(
                    json.dumps({key: row[key] for key in ("name", "settings", "stopped", "cpu_seconds", "bits")}),
                    flush=True,
                )
            if row is not None:
                rows.append(row)
                write_json(path, {"about": about, "rows": rows})
    write_text(path.with_suffix(".md"), page({"about": about, "rows": rows}))


if __name__ == "__main__":
    main()
