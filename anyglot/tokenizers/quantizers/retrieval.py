"""Asymmetric search: queries as they are, the database as codes; and how often it finds the true neighbour."""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.base import Quantizer
from anyglot.tokenizers.quantizers.search import full_precision, nearest

QUERIES = 256  # distances to the whole database are held for so many at once


@torch.no_grad()
def asymmetric_search(quantizer: Quantizer, queries: Tensor, codes: Tensor, count: int) -> Tensor:
    """The `count` nearest database entries of each query (all, where there are fewer), nearest first.

    Args:
        queries: [q, dim]. codes: of the database, [n, levels]; their distances come from `quantizer.distances`.
    Returns:
        indices into the database, int64 [q, count].
    """
    found = [
        quantizer.distances(part, codes).topk(min(count, len(codes)), largest=False).indices
        for part in torch.split(queries.float(), QUERIES)
    ]
    return torch.cat(found)


@torch.no_grad()
def recall(
    quantizer: Quantizer, queries: Tensor, database: Tensor, at: tuple[int, ...] = (1, 10, 100)
) -> dict[int, float]:
    """recall@R: for how many queries [q, dim] the true nearest vector of `database` [n, dim] is among the R that an
    asymmetric search over its codes finds (Jegou et al. 2011)."""
    with full_precision(queries.device):
        truth = nearest(queries, database)[0]
        found = asymmetric_search(quantizer, queries, quantizer.encode(database), max(at))
    hit = found == truth[:, None]
    return {r: float(hit[:, :r].any(1).float().mean()) for r in at}
