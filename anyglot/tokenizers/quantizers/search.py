"""Nearest code by tiles over both axes: never a [vectors, codes] matrix."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# A tile of scores, 4 MB: of the shapes measured the fastest on one core, for widths of 8 to 256.
ROWS = 512
CODES = 2048
GPU_ROWS = 8192


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch off autocast, and reduced-precision (TF32, bf16) products of fp32 matrices, on any device.

    bf16 products choose another code for 1 to 7 % of vectors; the token stream must not depend on such settings.
    """
    # Not by torch.set_float32_matmul_precision: it fails where somebody has set these.
    backends: Any = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    reduced = [(backend, backend.fp32_precision) for backend in backends]
    reduced = [(backend, precision) for backend, precision in reduced if precision not in ("none", "ieee")]
    for backend, _ in reduced:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in reduced:
            backend.fp32_precision = precision


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest code in squared Euclidean distance, in fp32; of equal ones, the first.

    On a GPU a fused kernel does it, where Triton is installed (`search_triton`).

    Args:
        vectors: [n, width]. codebook: [codes, width].
    Returns:
        indices int64 [n], and |code|^2 - 2 vector.code of them, fp32 [n]: the squared distance less |vector|^2.
    """
    vectors, codebook = vectors.float(), codebook.float()
    if vectors.is_cuda and importlib.util.find_spec("triton"):  # there is none for Windows
        from anyglot.tokenizers.quantizers import search_triton

        return search_triton.nearest(vectors, codebook)
    return nearest_by_tiles(vectors, codebook)


@torch.no_grad()
def nearest_by_tiles(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """`nearest` in torch operations, of fp32 tensors on any device."""
    count, size = vectors.shape[0], codebook.shape[0]
    rows = max(1, min(count, ROWS if vectors.device.type == "cpu" else GPU_ROWS))
    indices = torch.zeros(count, dtype=torch.int64, device=vectors.device)
    scores = torch.full((count,), torch.inf, device=vectors.device)
    tile = vectors.new_empty(rows * min(CODES, size))  # written again and again: fresh ones would cost page faults
    with full_precision(vectors.device):
        for code in range(0, size, CODES):
            # One product gives |code|^2 - 2 vector.code: [vector, 1] times [-2 code, |code|^2].
            part = codebook[code : code + CODES]
            keys = torch.cat([-2 * part, part.square().sum(1, keepdim=True)], 1)
            for row in range(0, count, rows):
                queries = F.pad(vectors[row : row + rows], (0, 1), value=1.0)
                here = slice(row, row + len(queries))
                score = torch.mm(queries, keys.t(), out=tile[: len(queries) * len(keys)].view(len(queries), -1))
                lowest, index = _lowest(score)
                better = lowest < scores[here]  # strictly: of equal codes the first stays
                scores[here] = torch.where(better, lowest, scores[here])
                indices[here] = torch.where(better, index + code, indices[here])
    return indices, scores


def _lowest(score: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum of each row, and where it first is; on a CPU by NumPy, which is vectorised where torch is not."""
    if score.device.type != "cpu":
        lowest, index = score.min(1)
        return lowest, index
    index = torch.from_numpy(score.numpy().argmin(1))
    return score.gather(1, index[:, None])[:, 0], index
