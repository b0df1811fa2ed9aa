"""Lloyd's k-means with a fixed seed: the start of a learned codebook."""

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.tokenizers.quantizers.search import nearest


@torch.no_grad()
def kmeans(vectors: Tensor, size: int, iterations: int = 10, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """Cluster `vectors` [n, width] into at most `size` centres.

    An empty cluster is given the vector that lies farthest from its own centre, so there are as many distinct
    centres as there are distinct vectors, up to `size`. spherical: centres are kept at unit length.
    Returns centres [k, width] and how many vectors each has, fp32 [k]; k = min(size, distinct vectors).
    """
    vectors = vectors.float()
    distinct = torch.unique(vectors, dim=0)
    size = min(size, distinct.shape[0])
    order = torch.randperm(distinct.shape[0], generator=torch.Generator().manual_seed(0))
    centres = distinct[order[:size].to(vectors.device)]
    lengths = vectors.square().sum(1)
    for iteration in range(iterations + 1):
        indices, scores = nearest(vectors, centres)
        counts = torch.bincount(indices, minlength=size).float()
        if iteration == iterations:
            break
        centres = torch.zeros_like(centres).index_add_(0, indices, vectors) / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = vectors[(lengths + scores).topk(len(empty)).indices]
        if spherical:
            centres = F.normalize(centres, dim=1)
    return centres, counts
