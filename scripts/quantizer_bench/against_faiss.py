"""The cases of `scripts/bench_faiss.py`: offline quantizers against faiss at equal bytes."""

from dataclasses import asdict
from functools import cache
from typing import Any

import bench_faiss
from torch import Tensor

NAMES = [(case.name, data) for data in ("iid", "correlated") for case in bench_faiss.CASES]


@cache
def vectors(quick: bool) -> dict[str, tuple[Tensor, Tensor]]:
    return bench_faiss.gaussians(4096 if quick else bench_faiss.TRAIN)


def compare(name: str, data: str, threads: int, quick: bool) -> dict[str, Any]:
    """One row: distortion of held-out vectors, and CPU seconds of training and encoding, of ours and faiss."""
    bench_faiss.faiss.omp_set_num_threads(threads)
    case = next(case for case in bench_faiss.CASES if case.name == name)
    row = bench_faiss.compare(case, data, *vectors(quick)[data])
    return {
        **asdict(row),
        "bytes": bench_faiss.CODES * bench_faiss.BITS // 8,
        "distortion_ratio": row.distortion / row.faiss_distortion,
        "train_ratio": row.train_seconds / row.faiss_train_seconds,
        "encode_ratio": row.encode_seconds / row.faiss_encode_seconds,
    }
