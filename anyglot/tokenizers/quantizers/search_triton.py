"""Nearest code on a GPU in one kernel: scores live in registers, and only the winner of each vector is written.

Tiles over codes, the running minimum beside them, products in fp32 proper (TF32 would choose other codes). Where there
are fewer vectors than a GPU can work on at once, several programs share the codes of a vector. Needs Triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of the shapes tried, this one compiles without spilled registers for sm_80 and sm_90.
ROWS = 64  # vectors of a program
CODES = 128  # codes scored at once
CHANNELS = 16  # of both multiplied at once; fewer a product cannot be
WARPS = 8
PROGRAMS = 1024  # as many as keep a big GPU busy


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """`search.nearest` of fp32 tensors on a GPU (or anywhere, if TRITON_INTERPRET=1 was set before the import)."""
    vectors, codebook = vectors.contiguous(), codebook.contiguous()
    count, size = vectors.shape[0], codebook.shape[0]
    groups, tiles = -(-count // ROWS), max(1, -(-size // CODES))
    tiles_each = -(-tiles // max(1, min(tiles, PROGRAMS // max(1, groups))))
    shares = -(-tiles // tiles_each)
    indices = torch.zeros(shares, count, dtype=torch.int64, device=vectors.device)
    scores = torch.full((shares, count), torch.inf, device=vectors.device)
    if count > 0 and size > 0:
        with torch.cuda.device_of(vectors):  # type: ignore[no-untyped-call]
            nearest_code[groups, shares](
                vectors,
                codebook,
                codebook.square().sum(1),
                indices,
                scores,
                count,
                size,
                vectors.shape[1],
                tiles_each,
                ROWS=ROWS,
                CODES=CODES,
                CHANNELS=CHANNELS,
                num_warps=WARPS,
            )
    if shares == 1:
        return indices[0], scores[0]
    lowest, share = scores.min(0)  # of equal scores the first share's, so the first code
    return indices.gather(0, share[None])[0], lowest


@triton.jit  # type: ignore[untyped-decorator]
def nearest_code(  # type: ignore[no-untyped-def]
    vectors,  # [count, width]
    codebook,  # [size, width]
    lengths,  # [size], |code|^2
    indices,  # out: int64 [shares, count]
    scores,  # out: fp32 [shares, count]
    count,
    size,
    width,
    tiles_each,  # tiles of codes that a share has
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: ROWS vectors against one share of the codes."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    share = tl.program_id(1)
    best = tl.full([ROWS], float("inf"), tl.float32)
    winner = tl.zeros([ROWS], tl.int32)
    for tile in range(share * tiles_each, (share + 1) * tiles_each):  # beyond the last code every score is infinite
        code = tile * CODES + tl.arange(0, CODES)
        product = tl.zeros([ROWS, CODES], tl.float32)
        for channel in range(0, width, CHANNELS):
            at = channel + tl.arange(0, CHANNELS)
            query_mask = (row < count)[:, None] & (at < width)[None, :]
            queries = tl.load(vectors + row[:, None] * width + at[None, :], mask=query_mask, other=0.0)
            key_mask = (at < width)[:, None] & (code < size)[None, :]
            keys = tl.load(codebook + code.to(tl.int64)[None, :] * width + at[:, None], mask=key_mask, other=0.0)
            product = tl.dot(queries, keys, product, input_precision="ieee")
        length = tl.load(lengths + code, mask=code < size, other=float("inf"))
        lowest, place = tl.min(
            length[None, :] - 2 * product, 1, return_indices=True, return_indices_tie_break_left=True
        )
        better = lowest < best  # strictly: of equal codes the first stays
        best = tl.where(better, lowest, best)
        winner = tl.where(better, tile * CODES + place, winner)
    out = share.to(tl.int64) * count + row
    tl.store(indices + out, winner.to(tl.int64), mask=row < count)
    tl.store(scores + out, best, mask=row < count)
