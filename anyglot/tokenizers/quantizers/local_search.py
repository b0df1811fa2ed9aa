"""Iterated local search for codes whose code vectors add up to a vector (LSQ: Martinez et al. 2016, ECCV).

Which of K^M sums lies nearest is NP-hard. Iterated conditional modes changes one code at a time to the best one given
the others, until nothing changes; then a few codes are perturbed and it starts again; the better result is kept.
With c the chosen code vectors, |x - sum c|^2 - |x|^2 = sum_m (|c_m|^2 - 2 x.c_m) + sum_{m != j} c_m.c_j: a table of the
codes alone, and of pairs of codes, so that a step is a sum of table rows, whatever the width of the vectors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024  # vectors searched at once: their scores are [ROWS, levels, codes]


@dataclass
class Constant:
    """What composite quantization wants of the chosen code vectors: sum_{i != j} c_i.c_j near `value`; a squared
    difference costs `weight`."""

    value: float
    weight: float


def sum_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Sums of the rows [n, m] of a table [r, width]: [n, width]."""
    return F.embedding_bag(rows, table, mode="sum")


def sum_codes(codebooks: Tensor, codes: Tensor) -> Tensor:
    """Sums [n, width] of the code vectors of codes [n, m] in codebooks [m, K, width]; a code of -1 adds nothing."""
    levels, size, width = codebooks.shape
    flat = codes + torch.arange(levels, device=codes.device) * size
    if bool((codes < 0).any()):
        table = torch.cat([codebooks.reshape(-1, width), codebooks.new_zeros(1, width)])
        return sum_rows(table, torch.where(codes < 0, levels * size, flat))
    return sum_rows(codebooks.reshape(-1, width), flat)


def cross_products(codebooks: Tensor, codes: Tensor) -> Tensor:
    """sum_{i != j} c_i.c_j [n] of the code vectors of codes [n, m]."""
    lengths = codebooks.square().sum(2, keepdim=True)
    return sum_codes(codebooks, codes).square().sum(1) - sum_codes(lengths, codes)[:, 0]


def errors(vectors: Tensor, codebooks: Tensor, codes: Tensor, constant: Constant | None = None) -> Tensor:
    """Squared distance [n] of each vector [n, width] to its codes' sum, plus what `constant` costs."""
    error = (vectors - sum_codes(codebooks, codes)).square().sum(1)
    if constant is None:
        return error
    return error + constant.weight * (cross_products(codebooks, codes) - constant.value).square()


def perturbations(rounds: int, levels: int, size: int, changed: int) -> list[tuple[Tensor, Tensor]]:
    """For each round the order in which levels are visited, those perturbed last, and the shift of each level's code.

    They are the same for every vector, so that codes do not depend on the batch, and those of n rounds begin those
    of n + 1, so that more rounds are never worse.
    """
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(rounds):
        order = torch.randperm(levels, generator=generator)
        shift = torch.zeros(levels, dtype=torch.int64)
        last = order[levels - changed :]
        shift[last] = torch.randint(1, size, (changed,), generator=generator)
        made.append((order, shift))
    return made


@torch.no_grad()
def local_search(
    vectors: Tensor,
    codebooks: Tensor,
    codes: Tensor,
    rounds: int,
    changed: int,
    sweeps: int = 4,
    constant: Constant | None = None,
) -> Tensor:
    """Better codes than `codes`, or the same.

    Args:
        vectors: [n, width]. codebooks: [m, K, width]. codes: int64 [n, m] to start from.
        rounds: how often `changed` of the m codes are perturbed and up to `sweeps` sweeps follow.
    Returns:
        int64 [n, m]; no vector's error is above that of the codes given, nor of fewer rounds.
    """
    levels, size, _ = codebooks.shape
    pairs = pair_tables(codebooks)
    plan = [(torch.arange(levels), torch.zeros(levels, dtype=torch.int64))]
    plan += perturbations(rounds, levels, size, changed)
    found = []
    for x, start in zip(torch.split(vectors, ROWS), torch.split(codes, ROWS), strict=True):
        tables = unary_tables(x, codebooks, pairs)
        best, lowest = start, errors(x, codebooks, start, constant)
        for order, shift in plan:
            begin = (best + shift.to(best.device)) % size
            crossed = None if constant is None else cross_products(codebooks, begin)
            tried = sweep(tables, begin, order.tolist(), sweeps, constant, crossed)
            error = errors(x, codebooks, tried, constant)
            better = error < lowest
            best = torch.where(better[:, None], tried, best)
            lowest = torch.where(better, error, lowest)
        found.append(best)
    return torch.cat(found)


def pair_tables(codebooks: Tensor) -> Tensor:
    """For each level m the rows 2 c_j.c_m of the codes j of all levels, [m, m * K, K]; those of its own level are 0."""
    levels, size, width = codebooks.shape
    flat = codebooks.reshape(-1, width)
    tables = torch.stack([flat @ (2 * codebook).t() for codebook in codebooks])
    for level in range(levels):
        tables[level, level * size : (level + 1) * size] = 0
    return tables


def unary_tables(vectors: Tensor, codebooks: Tensor, pairs: Tensor) -> Tensor:
    """`pairs` with rows |c|^2 - 2 x.c of each vector x added below, [m, m * K + n, K]."""
    alone = codebooks.square().sum(2)[:, None] - 2 * vectors @ codebooks.transpose(1, 2)
    return torch.cat([pairs, alone], 1)


def sweep(
    tables: Tensor,
    codes: Tensor,
    order: list[int],
    sweeps: int,
    constant: Constant | None = None,
    crossed: Tensor | None = None,
) -> Tensor:
    """Set each level's code to the best given the others, in this order, until nothing changes or `sweeps` times.

    tables: [m, m * K + n, K], see `unary_tables`. crossed: where there is a `constant`, the `cross_products` of codes.
    """
    levels, _, size = tables.shape
    codes = codes.clone()
    offsets = torch.arange(levels, device=codes.device) * size
    active = torch.arange(codes.shape[0], device=codes.device)
    for _ in range(sweeps):
        now = codes[active]
        before = now.clone()
        alone = active[:, None] + levels * size
        picked = torch.cat([now + offsets, alone], 1)
        for level in order:
            others = [m for m in range(levels + 1) if m != level]
            if constant is None or crossed is None:
                now[:, level] = first_lowest(sum_rows(tables[level], picked[:, others]))
            else:
                pairs = sum_rows(tables[level], picked[:, others[:-1]])
                rest = crossed[active] - pairs.gather(1, now[:, level, None])[:, 0]
                off = pairs + (rest - constant.value)[:, None]
                scores = tables[level][alone[:, 0]] + pairs + constant.weight * off.square()
                now[:, level] = first_lowest(scores)
                crossed[active] = rest + pairs.gather(1, now[:, level, None])[:, 0]
            picked[:, level] = now[:, level] + level * size
        codes[active] = now
        active = active[(now != before).any(1)]
        if not len(active):
            break
    return codes


def first_lowest(scores: Tensor) -> Tensor:
    """Index of the lowest score of each row [n, K], the first of equal ones."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmin(1))  # vectorised there, some ten times torch's speed
    return scores.argmin(1)
