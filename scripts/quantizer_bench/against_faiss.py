"""Offline quantizers against faiss at equal bytes: distortion on held-out vectors, training and encoding time.

Both run one after the other in this process. faiss: pip install 'anyglot[dev]'.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer

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


def measure(case: Case, data: str, train: Tensor, heldout: Tensor) -> Row:
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


NAMES = [(case.name, data) for data in ("iid", "correlated") for case in CASES]


@cache
def vectors(quick: bool) -> dict[str, tuple[Tensor, Tensor]]:
    return gaussians(4096 if quick else TRAIN)


def compare(name: str, data: str, threads: int, quick: bool) -> dict[str, Any]:
    """One row: distortion of held-out vectors, and CPU seconds of training and encoding, of ours and faiss."""
    faiss.omp_set_num_threads(threads)
    case = next(case for case in CASES if case.name == name)
    row = measure(case, data, *vectors(quick)[data])
    return {
        **asdict(row),
        "bytes": CODES * BITS // 8,
        "distortion_ratio": row.distortion / row.faiss_distortion,
        "train_ratio": row.train_seconds / row.faiss_train_seconds,
        "encode_ratio": row.encode_seconds / row.faiss_encode_seconds,
    }
