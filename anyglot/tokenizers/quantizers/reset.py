"""What moves codes that fall out of use, after a training step.

Every choice is equal on all ranks: counts are, random numbers come from the number of updates, and vectors from the
batch joined over ranks. A moved code's average count moves with it, so that the next update does not undo the reset.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.codebook import Codebook
from anyglot.tokenizers.quantizers.distributed import all_reduce, joined_rows, joined_span, rank, world_size
from anyglot.tokenizers.quantizers.search import CODES, nearest

Reset = Callable[[Codebook, Tensor], None]
ResetKind = Literal["vector", "split", "closest", "random", "probabilistic"]
ONLINE: tuple[ResetKind, ...] = ("closest", "random", "probabilistic")  # anchors of online clustering (CVQ)

NOISE = 0.01  # of a split, relative to the spread of the codebook
CANDIDATES = 4096  # vectors of the batch that probabilistic anchors are drawn from
NEGLIGIBLE = 1e-7  # a rate that moves no fp32 number


def make_reset(kind: ResetKind, below: float) -> Reset | None:
    """The reset that a config names, or None if `below` is 0.

    below: which share of the mean count counts as out of use. "vector" and "split" move a code below it, all the
    way; the anchors of CVQ pull every code, at a rate that falls with its share and is 1 / e there.
    """
    if below == 0:
        return None
    if kind == "vector":
        return partial(to_vectors, below=below)
    if kind == "split":
        return partial(split, below=below)
    return partial(to_anchors, below=below, choose=ANCHORS[kind])


def to_vectors(codebook: Codebook, h: Tensor, below: float) -> None:
    """Move codes out of use to random vectors of the batch (EnCodec, arXiv:2210.13438), as codes of average use."""
    unused = _unused(codebook, below)
    start, total = joined_span(h.shape[0], h.device) if len(unused) else (0, 0)
    picked = torch.randperm(total, generator=_chance(codebook))[: len(unused)]
    if len(picked):
        unused = unused[: len(picked)]
        codebook.place(unused, joined_rows(h, picked, start), codebook.counts.mean().expand(len(unused)))


def split(codebook: Codebook, h: Tensor, below: float) -> None:
    """Move codes out of use next to codes in frequent use, drawn by their counts (HQA, arXiv:2002.08111)."""
    unused = _unused(codebook, below)
    if not len(unused):
        return
    chance = _chance(codebook)
    parents = torch.multinomial(codebook.counts.cpu(), len(unused), replacement=True, generator=chance)
    codes = codebook.vectors().detach()
    noise = torch.randn(len(unused), codes.shape[1], generator=chance).to(codes.device)
    vectors = codes[parents.to(codes.device)] + NOISE * codes.std() * noise
    codebook.place(unused, vectors, codebook.counts.mean().expand(len(unused)))


def to_anchors(
    codebook: Codebook, h: Tensor, below: float, choose: Callable[[Codebook, Tensor, Tensor], Tensor | None]
) -> None:
    """Pull every code to an anchor among the batch's vectors: c <- (1 - a) c + a anchor, a = exp(-share / below),
    share = its count over the mean count (CVQ-VAE, arXiv:2307.15139, whose constant is below = (1 - decay) / 10)."""
    rates = torch.exp(-codebook.counts / codebook.counts.mean() / below)
    rows = (rates > NEGLIGIBLE).nonzero()[:, 0]
    if not len(rows):
        return
    codes = codebook.vectors().detach()[rows]
    anchors = choose(codebook, codes, h)
    if anchors is not None:
        codebook.place(rows, torch.lerp(codes, anchors, rates[rows][:, None]), codebook.counts[rows])


def closest_anchors(codebook: Codebook, codes: Tensor, h: Tensor) -> Tensor | None:
    """For each of `codes` [m, width] the nearest vector of the batch, [m, width]."""
    start, total = joined_span(h.shape[0], h.device)
    if total == 0:
        return None
    found, scores = nearest(codes, h)
    if world_size() > 1:
        by_rank = scores.new_zeros(world_size(), len(codes))
        by_rank[rank()] = scores  # infinite on a rank without vectors
        found_by_rank = found.new_zeros(world_size(), len(codes))
        found_by_rank[rank()] = found + start
        best = all_reduce(by_rank).argmin(0, keepdim=True)
        found = all_reduce(found_by_rank).gather(0, best)[0]
    return joined_rows(h, found, start)


def random_anchors(codebook: Codebook, codes: Tensor, h: Tensor) -> Tensor | None:
    """For each of `codes` [m, width] some vector of the batch, [m, width]; no vector twice while there are others."""
    start, total = joined_span(h.shape[0], h.device)
    if total == 0:
        return None
    order = torch.randperm(total, generator=_chance(codebook))
    return joined_rows(h, order[torch.arange(len(codes)) % total], start)


def probabilistic_anchors(codebook: Codebook, codes: Tensor, h: Tensor) -> Tensor | None:
    """For each of `codes` [m, width] a vector of the batch, drawn by softmax(-|vector - code|^2), [m, width]."""
    start, total = joined_span(h.shape[0], h.device)
    if total == 0:
        return None
    chance = _chance(codebook)
    pool = joined_rows(h, torch.randperm(total, generator=chance)[:CANDIDATES], start)
    drawn = []
    for part in torch.split(codes, CODES):
        likely = torch.softmax(-torch.cdist(part, pool).square(), 1).cpu()
        drawn.append(torch.multinomial(likely, 1, generator=chance)[:, 0])
    return pool[torch.cat(drawn).to(pool.device)]


ANCHORS = {"closest": closest_anchors, "random": random_anchors, "probabilistic": probabilistic_anchors}


def _unused(codebook: Codebook, below: float) -> Tensor:
    return (codebook.counts < below * codebook.counts.mean()).nonzero()[:, 0]


def _chance(codebook: Codebook) -> torch.Generator:
    """The same numbers on every rank, and after a resume."""
    return torch.Generator().manual_seed(int(codebook.updates))
