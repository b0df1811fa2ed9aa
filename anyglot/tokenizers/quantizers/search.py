"""Nearest code by tiles over both axes: never a [vectors, codes] matrix."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 512
CODES = 1024


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch off autocast, and reduced-precision (TF32, bf16) products of fp32 matrices, on any device.

    bf16 products choose another code for 1 to 7 % of vectors; the token stream must not depend on such settings.
    """
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest code in squared Euclidean distance, in fp32; of equal ones, the first.

    Args:
        vectors: [n, width]. codebook: [codes, width].
    Returns:
        indices int64 [n], and |code|^2 - 2 vector.code of them, fp32 [n]: the squared distance less |vector|^2.
    """
    vectors, codebook = vectors.float(), codebook.float()
    count, size = vectors.shape[0], codebook.shape[0]
    indices = torch.zeros(count, dtype=torch.int64, device=vectors.device)
    scores = torch.full((count,), torch.inf, device=vectors.device)
    with full_precision(vectors.device):
        # One product gives |code|^2 - 2 vector.code: [vector, 1] times [-2 code, |code|^2].
        keys = torch.cat([-2 * codebook, codebook.square().sum(1, keepdim=True)], 1)
        for row in range(0, count, ROWS):
            rows = slice(row, row + ROWS)
            queries = F.pad(vectors[rows], (0, 1), value=1.0)
            for code in range(0, size, CODES):
                score, index = (queries @ keys[code : code + CODES].t()).min(1)
                better = score < scores[rows]  # strictly: of equal codes the first stays
                scores[rows] = torch.where(better, score, scores[rows])
                indices[rows] = torch.where(better, index + code, indices[rows])
    return indices, scores
