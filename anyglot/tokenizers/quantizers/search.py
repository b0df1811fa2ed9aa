"""Nearest code by tiles over both axes: never a [vectors, codes] matrix."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

# A tile of scores, 4 MB: of the shapes measured, the fastest on one core for widths of 8 to 256.
ROWS = 512
CODES = 2048
BLOCK = 64  # codes whose minimum is taken first


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
    indices = torch.zeros(count, dtype=torch.int64, device=vectors.device)
    scores = torch.full((count,), torch.inf, device=vectors.device)
    rows = min(ROWS, count)
    tile = vectors.new_empty(
        rows * min(CODES, -(-size // BLOCK) * BLOCK)
    )  # one, used again: fresh ones cost page faults
    with full_precision(vectors.device):
        for code in range(0, size, CODES):
            keys = _keys(codebook[code : code + CODES])
            blocks = keys.shape[0] // BLOCK
            first_block = torch.arange(rows, device=vectors.device) * blocks
            for row in range(0, count, ROWS):
                queries = F.pad(vectors[row : row + ROWS], (0, 1), value=1.0)
                n = queries.shape[0]
                score = torch.mm(queries, keys.t(), out=tile[: n * keys.shape[0]].view(n, -1)).view(n * blocks, BLOCK)
                # A minimum without its index is vectorised, with it not: so first which block, then where in it.
                lowest, block = score.amin(1).view(n, blocks).min(1)
                index = block * BLOCK + score.index_select(0, first_block[:n] + block).min(1).indices + code
                here = slice(row, row + n)
                better = lowest < scores[here]  # strictly: of equal codes the first stays
                scores[here] = torch.where(better, lowest, scores[here])
                indices[here] = torch.where(better, index, indices[here])
    return indices, scores


def _keys(codes: Tensor) -> Tensor:
    """[-2 code, |code|^2] of codes [n, width], whose product with [vector, 1] is the score; [n or more, width + 1].

    Keys that fill up the last block score infinity.
    """
    count, width = codes.shape
    keys = codes.new_zeros(-(-count // BLOCK) * BLOCK, width + 1)
    torch.mul(codes, -2, out=keys[:count, :width])
    torch.sum(codes.square(), 1, out=keys[:count, width])
    keys[count:, width] = torch.inf
    return keys
