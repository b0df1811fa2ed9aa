"""Look-up decoders: what codes of any quantizer decode to, about, by sums of table entries of codes or pairs of codes."""

from itertools import combinations

import torch
from torch import Tensor


@torch.no_grad()
def fit_tables(x: Tensor, codes: Tensor, sizes: tuple[int, ...], tables: int, pairs: bool) -> tuple[Tensor, Tensor]:
    """Tables whose entries add up to vectors [n, d] with codes [n, m]: one by one, each the one that leaves least over.

    Args:
        sizes: of the m codebooks, all equal to K. tables: how many. pairs: a table for two codes (QINCo2's pairwise
            decoder, arXiv:2501.03078), or for one (the additive decoder).
    Returns:
        which codes each table is of, int64 [tables, 2] (twice the same for one), and the tables [tables, K * K, d],
        of which one for single codes uses the diagonal.
    """
    size = sizes[0]
    choices = list(combinations(range(len(sizes)), 2)) if pairs else [(i, i) for i in range(len(sizes))]
    left = x
    found, entries = [], []
    for _ in range(tables):
        best = None
        for first, second in choices:
            joint = codes[:, first] * size + codes[:, second]
            table = _means(left, joint, size * size)
            rest = left - table[joint]
            error = float(rest.square().sum())
            if best is None or error < best[0]:
                best = (error, first, second, table, rest)
        assert best is not None
        _, first, second, table, left = best
        found.append((first, second))
        entries.append(table)
    return torch.tensor(found, device=x.device), torch.stack(entries)


def _means(x: Tensor, joint: Tensor, size: int) -> Tensor:
    """Mean of the vectors of each entry, [size, d], as if one vector of zeros were among them: rare ones are noise."""
    counts = torch.bincount(joint, minlength=size)[:, None]
    return x.new_zeros(size, x.shape[1]).index_add_(0, joint, x) / (counts + 1)


def decode_by_tables(codes: Tensor, which: Tensor, tables: Tensor) -> Tensor:
    """Sums [n, d] of the entries of codes [n, m], none of them -1."""
    size = round(tables.shape[1] ** 0.5)
    total = tables.new_zeros(codes.shape[0], tables.shape[2])
    for (first, second), table in zip(which.tolist(), tables, strict=True):
        total += table[codes[:, first] * size + codes[:, second]]
    return total
