"""A look-up decoder: about what codes of any quantizer decode to, as sums of table entries of codes and of pairs."""

from itertools import combinations

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.beam import sum_of
from anyglot.tokenizers.quantizers.kmeans import cluster_means

SWEEPS = 10  # over the tables of single codes
PRIOR = 16  # an entry of a pair that n vectors have is n / (n + PRIOR) of their mean: rare pairs are noise


@torch.no_grad()
def fit_tables(x: Tensor, codes: Tensor, size: int, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tables whose entries add up to vectors [n, d] with codes [n, m] of m codebooks of one size K.

    First one table for each code, fitted together (the additive decoder); then tables for `pairs` pairs of codes, each
    the pair that then leaves least over (the pairwise decoder of QINCo2, arXiv:2501.03078).
    Returns the tables [m, K, d] of the codes, which pairs, int64 [pairs, 2], and their tables [pairs, K * K, d].
    """
    singles = x.new_zeros(codes.shape[1], size, x.shape[1])
    left = x
    for _ in range(SWEEPS):
        for table, chosen in zip(singles, codes.t(), strict=True):
            target = left + table[chosen]
            table.copy_(cluster_means(target, chosen, table)[0])
            left = target - table[chosen]
    found, tables = [], []
    for _ in range(pairs):
        fitted = [(pair, *_shrunk(left, pair_codes(codes, pair, size), size)) for pair in _pairs(codes.shape[1])]
        pair, table, left = min(fitted, key=lambda fit: float(fit[2].square().sum()))
        found.append(pair)
        tables.append(table)
    which = torch.tensor(found, dtype=torch.int64, device=x.device).view(-1, 2)
    return singles, which, torch.stack(tables) if tables else x.new_zeros(0, size * size, x.shape[1])


def _pairs(levels: int) -> list[tuple[int, int]]:
    return list(combinations(range(levels), 2))


def pair_codes(codes: Tensor, pair: tuple[int, int], size: int) -> Tensor:
    """The two codes of a pair as one number [n], of size * size."""
    return codes[:, pair[0]] * size + codes[:, pair[1]]


def _shrunk(x: Tensor, joint: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Shrunken means [size^2, d] of the vectors of each entry, and what they leave over [n, d]."""
    counts = torch.bincount(joint, minlength=size * size)[:, None]
    table = x.new_zeros(size * size, x.shape[1]).index_add_(0, joint, x) / (counts + PRIOR)
    return table, x - table[joint]


def decode_by_tables(codes: Tensor, singles: Tensor, which: Tensor, tables: Tensor) -> Tensor:
    """Sums [n, d] of the entries of codes [n, m], none of them -1."""
    total = sum_of(singles, codes)
    for (first, second), table in zip(which.tolist(), tables, strict=True):
        total += table[pair_codes(codes, (first, second), singles.shape[1])]
    return total
