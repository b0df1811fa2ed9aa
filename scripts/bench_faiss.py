"""Offline quantizers against faiss at equal bytes: distortion on held-out vectors, training and encoding time.

    python scripts/bench_faiss.py               # writes docs/results/quantizers_faiss.json and .md
    python scripts/bench_faiss.py --only beam   # measures some cases anew, keeps the results of the others
    python scripts/bench_faiss.py --quick       # fewer vectors, writes nothing

Both run on one thread, one after the other, in this process. faiss: pip install 'anyglot[dev]'.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DIM, TRAIN, HELDOUT, SEED = 64, 16384, 4096, 0
BITS, CODES = 8, 8  # of a code; for each vector
SIZE = 2**BITS


@dataclass(frozen=True)
class Case:
    """ours: config of our quantizer. faiss: makes the peer, which has train, compute_codes and decode."""

    name: str
    ours: dict[str, Any]
    faiss: Callable[[], Any]


@dataclass
class Row:
    """seconds are CPU time of one thread. distortion: |x - decoded|^2 over |x|^2, held-out."""

    case: str
    data: str
    train_seconds: float
    faiss_train_seconds: float
    encode_seconds: float
    faiss_encode_seconds: float
    distortion: float
    faiss_distortion: float

    @property
    def excess(self) -> float:
        """How much more distortion ours has, as a share of faiss'."""
        return self.distortion / self.faiss_distortion - 1

    @property
    def slowdown(self) -> float:
        """Our training time over faiss'."""
        return self.train_seconds / self.faiss_train_seconds


def local_search(iterations: int) -> Any:
    peer = faiss.LocalSearchQuantizer(DIM, CODES, BITS)
    peer.train_iters = iterations
    return peer


def residual(beam: int) -> Any:
    peer = faiss.ResidualQuantizer(DIM, CODES, BITS)
    peer.max_beam_size = beam
    return peer


class OptimisedProduct:
    """faiss' OPQ rotation in front of its product quantizer."""

    def __init__(self) -> None:
        self.index = faiss.IndexPreTransform(faiss.OPQMatrix(DIM, CODES), faiss.IndexPQ(DIM, CODES, BITS))
        self.train, self.compute_codes, self.decode = self.index.train, self.index.sa_encode, self.index.sa_decode


PQ = {"type": "pq", "groups": CODES, "size": SIZE}
OPQ = {**PQ, "rotation": "eigenvalue", "learn_rotation": True, "alternations": 30}
RVQ = {"type": "rvq", "size": SIZE, "levels": CODES, "start": "subspace", "iterations": 5}
LSQ = {
    "type": "additive",
    "size": SIZE,
    "levels": CODES,
    "iterations": 4,
    "beam": 4,
    "rounds": 24,
    "train_rounds": 4,
}
CASES = [
    Case("PQ", PQ, lambda: faiss.ProductQuantizer(DIM, CODES, BITS)),
    Case("OPQ", OPQ, OptimisedProduct),
    Case("residual, greedy", RVQ, lambda: residual(1)),
    Case("residual, beam 5", {**RVQ, "beam": 5}, lambda: residual(5)),
    Case("LSQ, 5 iterations of faiss", LSQ, lambda: local_search(5)),
    Case("LSQ, 25 iterations of faiss (its default)", LSQ, lambda: local_search(25)),
]


def gaussians(train: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Train and held-out vectors: of independent channels, and of correlated ones, whose directions' spread falls."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = (torch.randn(n, DIM, generator=generator) for n in (train, HELDOUT))
    mix = torch.randn(DIM, DIM, generator=generator) * 0.9 ** torch.arange(DIM)
    return {"iid": (x, y), "correlated": (x @ mix.t(), y @ mix.t())}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return function(), time.process_time() - began


def compare(case: Case, data: str, train: Tensor, heldout: Tensor) -> Row:
    """Train and encode with both."""
    ours = build(case.ours, DIM)
    assert isinstance(ours, FittedQuantizer)
    _, train_seconds = timed(lambda: ours.fit(train))
    ours.eval()
    codes, encode_seconds = timed(lambda: ours.encode(heldout))
    peer = case.faiss()
    x, y = np.ascontiguousarray(train.numpy()), np.ascontiguousarray(heldout.numpy())
    _, peer_train_seconds = timed(lambda: peer.train(x))
    peer_codes, peer_encode_seconds = timed(lambda: peer.compute_codes(y))

    def distortion(decoded: Tensor) -> float:
        return float((heldout - decoded).square().sum() / heldout.square().sum())

    found = (distortion(ours.decode(codes)), distortion(torch.from_numpy(peer.decode(peer_codes))))
    return Row(
        case.name, data, train_seconds, peer_train_seconds, encode_seconds, peer_encode_seconds, found[0], found[1]
    )


def table(rows: list[Row]) -> str:
    lines = [
        "| quantizer | vectors | distortion, ours / faiss | | training, CPU s | | encoding, CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.case} | {row.data} | {row.distortion:.4f} / {row.faiss_distortion:.4f} | {row.excess:+.1%} | "
            f"{row.train_seconds:.1f} / {row.faiss_train_seconds:.1f} | {row.slowdown:.2f}x | "
            f"{row.encode_seconds:.3f} / {row.faiss_encode_seconds:.3f} |"
        )
    return "\n".join(lines) + "\n"


def write(rows: list[Row]) -> None:
    """The results with what they were made by; rows measured before in the same setting stay, unless measured anew."""
    setting: dict[str, Any] = {
        "command": "python scripts/bench_faiss.py",
        "seed": SEED,
        "dim": DIM,
        "train": TRAIN,
        "heldout": HELDOUT,
        "bytes": CODES * BITS // 8,
        "threads": 1,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "faiss": faiss.__version__},
    }
    path = RESULTS / "quantizers_faiss.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if all(before.get(key) == value for key, value in setting.items()):
        measured = {(row.case, row.data) for row in rows}
        fields = Row.__dataclass_fields__
        kept = [Row(**{key: cell[key] for key in fields}) for cell in before["rows"]]
        rows = [row for row in kept if (row.case, row.data) not in measured] + rows
    names = [case.name for case in CASES]
    rows = sorted((row for row in rows if row.case in names), key=lambda row: (names.index(row.case), row.data))
    cells = [{**asdict(row), "excess": row.excess, "slowdown": row.slowdown} for row in rows]
    path.write_text(json.dumps({**setting, "rows": cells}, indent=1) + "\n", "utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    text = (
        "# Against faiss at equal bytes\n\n"
        f"`{setting['command']}`: {TRAIN} Gaussian vectors of {DIM} channels to train on, {HELDOUT} held out, "
        f"{CODES} codes of {BITS} bits each; one thread, seed {SEED}; {versions}. Distortion is relative to the "
        "vectors' power.\n\n"
    )
    (RESULTS / "quantizers_faiss.md").write_text(text + table(rows), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4096 vectors to train on; write nothing")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows = []
    for data, (train, heldout) in gaussians(4096 if options.quick else TRAIN).items():
        for case in CASES:
            if options.only in case.name:
                rows.append(compare(case, data, train, heldout))
                print(f"{rows[-1].case}, {data}: {rows[-1].excess:+.1%}, {rows[-1].slowdown:.2f}x", file=sys.stderr)
    print(table(rows))
    if not options.quick:
        write(rows)


if __name__ == "__main__":
    main()
