"""Quantizers against vector-quantize-pytorch: CPU seconds and peak memory of a training step, in one run.

    python scripts/bench_quantizers.py [--quick] [--seed N] [--threads N] [--out docs/results]

A step is forward, backward and codebook update; the codes of both must be equal from equal codebooks. CPU seconds are
those of the whole process (all threads), the best of several steps; memory is the growth of the resident set during
a step (Linux only). Writes quantizers.json and quantizers.md.
"""

import argparse
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import vector_quantize_pytorch as peer
from torch import Tensor, nn

from anyglot.files import write_json, write_text
from anyglot.tokenizers.quantizers import Quantizer, build


@dataclass
class Case:
    """One comparison: our config, and how the peer builds the same and takes over our codebooks."""

    name: str
    vectors: int
    dim: int
    config: dict[str, Any]
    make_peer: Callable[[], nn.Module]
    share: Callable[[Quantizer, nn.Module], None]


def vq(vectors: int, size: int, dim: int) -> Case:
    config = {"type": "vq", "size": size, "kmeans_init": False, "reset_below": 0.0}
    options = {"decay": 0.99, "commitment_weight": 0.25, "rotation_trick": False, "threshold_ema_dead_code": 0}

    def share(ours: Quantizer, other: nn.Module) -> None:
        other._codebook.embed.data.copy_(ours.codebook.weight[None])

    make = lambda: peer.VectorQuantize(dim=dim, codebook_size=size, **options)  # noqa: E731
    return Case(f"VQ (EMA) {size} x {dim}", vectors, dim, config, make, share)


def residual(vectors: int, levels: int, size: int, dim: int) -> Case:
    inner = vq(vectors, size, dim)
    config = {"type": "residual", "levels": levels, "inner": inner.config}
    options = {"decay": 0.99, "commitment_weight": 0.25, "rotation_trick": False, "threshold_ema_dead_code": 0}

    def share(ours: Quantizer, other: nn.Module) -> None:
        for level, layer in zip(ours.stack, other.layers, strict=True):
            inner.share(level, layer)

    make = lambda: peer.ResidualVQ(dim=dim, codebook_size=size, num_quantizers=levels, **options)  # noqa: E731
    return Case(f"RVQ {levels} x {size} x {dim}", vectors, dim, config, make, share)


def fsq(vectors: int, sizes: list[int]) -> Case:
    make = lambda: peer.FSQ(sizes)  # noqa: E731
    return Case(f"FSQ {sizes}", vectors, len(sizes), {"type": "fsq", "sizes": sizes}, make, lambda ours, other: None)


def lfq(vectors: int, bits: int) -> Case:
    make = lambda: peer.LFQ(dim=bits, codebook_size=2**bits, entropy_loss_weight=0.1)  # noqa: E731
    return Case(f"LFQ {bits} bits", vectors, bits, {"type": "lfq", "bits": bits}, make, lambda ours, other: None)


FULL = [
    *[vq(16384, size, dim) for size in (1024, 8192) for dim in (8, 64, 256)],
    residual(16384, 8, 1024, 256),
    fsq(16384, [7, 7, 7, 5, 5, 5]),
    lfq(16384, 10),
    lfq(1024, 14),
]
QUICK = [vq(4096, 1024, 8), vq(4096, 1024, 64), residual(2048, 4, 512, 64), fsq(4096, [7, 5, 5, 5]), lfq(2048, 8)]


def our_step(quantizer: Quantizer, z: Tensor) -> Tensor:
    result = quantizer(z)
    (quantizer.loss(result) + result.vectors.sum()).backward()
    return result.codes


def peer_step(quantizer: nn.Module, z: Tensor) -> Tensor:
    vectors, codes, *losses = quantizer(z)
    total = vectors.sum()
    for loss in losses:
        total = total + loss.sum()
    total.backward()
    return codes


def little_endian(codes: Tensor, bits: int) -> Tensor:
    """The peer packs LFQ bits highest first."""
    return sum(((codes >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))


def measure(step: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """CPU seconds (best) and peak growth of resident memory in MB."""
    seconds, megabytes = float("inf"), 0.0
    for _ in range(repeats):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # hand freed memory back, or the next step would grow into it unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size
        before = memory("VmRSS")
        start = time.process_time()
        step()
        seconds = min(seconds, time.process_time() - start)
        megabytes = max(megabytes, memory("VmHWM") - before)
    return seconds, megabytes


def memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def run(case: Case, seed: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    ours, other = build(case.config, case.dim), case.make_peer()
    z = torch.randn(1, case.vectors, case.dim, requires_grad=True)
    our_step(ours, z), peer_step(other, z)  # first calls start threads and set up buffers
    case.share(ours, other)
    with torch.no_grad():
        our_codes, peer_codes = ours.eval().encode(z)[0], other.eval()(z)[1][0]
    if case.config["type"] == "lfq":
        peer_codes = little_endian(peer_codes, case.config["bits"])
    agree = (our_codes.squeeze(-1) == peer_codes).float().mean().item()
    ours.train(), other.train()
    our_seconds, our_memory = measure(lambda: our_step(ours, z), repeats)
    peer_seconds, peer_memory = measure(lambda: peer_step(other, z), repeats)
    return {
        "case": case.name,
        "vectors": case.vectors,
        "cpu_seconds": our_seconds,
        "peer_cpu_seconds": peer_seconds,
        "speedup": peer_seconds / our_seconds,
        "peak_mb": our_memory,
        "peer_peak_mb": peer_memory,
        "codes_equal": agree,
    }


def markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Quantizers against vector-quantize-pytorch",
        "",
        "One training step (forward, backward, codebook update): CPU seconds of all threads, best of "
        f"{about['repeats']}, and growth of resident memory. Both in the same process, one after the other.",
        "",
        "| case | vectors | CPU s | peer CPU s | times less | peak MB | peer peak MB | equal codes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['vectors']} | {row['cpu_seconds']:.4f} | {row['peer_cpu_seconds']:.4f} | "
            f"{row['speedup']:.1f} | {row['peak_mb']:.0f} | {row['peer_peak_mb']:.0f} | {row['codes_equal']:.2%} |"
        )
    note = "Our FSQ has the paper's bound, (L - 1)(1 - 0.001) / 2, the peer 1 + 0.001: some codes differ at the edges."
    return "\n".join([*lines, "", note, "", *[f"- {key}: {value}" for key, value in about.items()], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more make CPU seconds noisy: idle threads spin")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = 3
    rows = []
    for case in QUICK if arguments.quick else FULL:
        rows.append(run(case, arguments.seed, repeats))
        print(json.dumps(rows[-1]), flush=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "seed": arguments.seed,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "vector-quantize-pytorch": version("vector-quantize-pytorch"),
    }
    write_json(arguments.out / "quantizers.json", {"about": about, "cases": rows})
    write_text(arguments.out / "quantizers.md", markdown(about, rows))


if __name__ == "__main__":
    main()
