"""Encoding with sums of code vectors, one of each codebook: beam search, and descent one code at a time."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from anyglot.tokenizers.quantizers.search import nearest

CELLS = 2**20  # scores held at once


@torch.no_grad()
def extend(left: Tensor, codebook: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """One step of a beam: of all children of the kept paths, the `width` that leave least over, best first.

    Args:
        left: what each of b paths leaves over of its vector, [n, b, d]. codebook: [K, d].
    Returns:
        parents and codes of the kept children, int64 [n, min(width, b * K)].
    """
    paths, size = left.shape[1], codebook.shape[0]
    lengths = codebook.square().sum(1)
    parents, codes = [], []
    for part in torch.split(left, max(1, CELLS // (paths * size))):
        products = part.reshape(-1, part.shape[2]) @ codebook.t()
        scores = torch.add(lengths, products, alpha=-2).view(len(part), paths, size)
        scores = (scores + part.square().sum(2, keepdim=True)).view(len(part), paths * size)
        best = scores.topk(min(width, paths * size), largest=False).indices
        parents.append(best // size)
        codes.append(best % size)
    return torch.cat(parents), torch.cat(codes)


def follow(left: Tensor, codebook: Tensor, parents: Tensor, codes: Tensor) -> Tensor:
    """What the children that `extend` chose leave over, [n, children, d]."""
    return left.gather(1, parents[..., None].expand(-1, -1, left.shape[2])) - codebook[codes]


@torch.no_grad()
def beam_encode(x: Tensor, codebooks: Tensor, width: int) -> Tensor:
    """Codes int64 [n, m] of vectors [n, d]: the nearest sum among the paths through codebooks [m, K, d] that a beam
    keeps.

    width: paths kept after each codebook. 1 is greedy residual search; no vector gets a larger error than by that,
    because its greedy codes stay where no kept path is nearer.
    """
    levels, size, _ = codebooks.shape
    greedy = greedy_encode(x, codebooks)
    if width == 1 or levels == 1:
        return greedy
    found = []
    for part, fallback in zip(*(torch.split(t, max(1, CELLS // (width * size))) for t in (x, greedy)), strict=True):
        left, codes = part[:, None], part.new_zeros(len(part), 1, 0, dtype=torch.int64)
        for codebook in codebooks:
            parents, chosen = extend(left, codebook, width)
            left = follow(left, codebook, parents, chosen)
            past = codes.gather(1, parents[..., None].expand(-1, -1, codes.shape[2]))
            codes = torch.cat([past, chosen[..., None]], 2)
        error, best = left.square().sum(2).min(1)
        greedy_error = (part - sum_of(codebooks, fallback)).square().sum(1)
        codes = codes[torch.arange(len(part), device=x.device), best]
        found.append(torch.where((error < greedy_error)[:, None], codes, fallback))
    return torch.cat(found)


@torch.no_grad()
def greedy_encode(x: Tensor, codebooks: Tensor) -> Tensor:
    """Codes int64 [n, m] of vectors [n, d]: of each codebook the nearest to what those before it left over."""
    codes = torch.zeros(x.shape[0], len(codebooks), dtype=torch.int64, device=x.device)
    left = x
    for level, codebook in enumerate(codebooks):
        codes[:, level] = nearest(left, codebook)[0]
        left = left - codebook[codes[:, level]]
    return codes


@torch.no_grad()
def descend(x: Tensor, codebooks: Tensor, codes: Tensor, sweeps: int) -> Tensor:
    """Improve codes [n, m]: each in turn becomes the best one given the others (iterated conditional modes).

    The error of a vector never rises, and does not depend on the other vectors.
    """
    codes = codes.clone()
    left = x - sum_of(codebooks, codes)
    for _ in range(sweeps):
        for level, codebook in enumerate(codebooks):
            target = left + codebook[codes[:, level]]
            codes[:, level] = nearest(target, codebook)[0]
            left = target - codebook[codes[:, level]]
    return codes


def sum_of(codebooks: Tensor, codes: Tensor) -> Tensor:
    """Sums [n, d] of the code vectors that codes [n, m] select from codebooks [m, K, d]; a code of -1 adds nothing."""
    if codes.numel() and bool((codes >= 0).all()):  # in one pass over the output
        starts = torch.arange(len(codebooks), device=codes.device) * codebooks.shape[1]
        return embedding_bag(codes + starts, codebooks.flatten(0, 1), mode="sum")
    total = codebooks.new_zeros(codes.shape[0], codebooks.shape[2])
    for level, codebook in enumerate(codebooks):
        chosen = codes[:, level]
        vectors = codebook[chosen.clamp(min=0)]
        total += vectors if bool((chosen >= 0).all()) else torch.where((chosen >= 0)[:, None], vectors, 0.0)
    return total
