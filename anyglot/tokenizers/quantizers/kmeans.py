"""Lloyd's k-means with a fixed seed: the start of a learned codebook, and the whole of an offline one.

Two things make it fast. Seeds are drawn by k-means++ from a sample (Arthur and Vassilvitskii 2007). And centres move
beyond the mean of their vectors (over-relaxation), so that 10 iterations end where 25 plain ones do.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.tokenizers.quantizers.search import nearest

SAMPLE = 4  # vectors per centre that seeds are drawn from
ROUNDS = 64  # of seeding: bigger codebooks draw several seeds at once
STEP = 1.8  # of the way to the mean; the last iteration goes to the mean itself


@torch.no_grad()
def kmeans(vectors: Tensor, size: int, iterations: int = 10, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """Cluster `vectors` [n, width] into at most `size` centres.

    An empty cluster is given the vector that lies farthest from its own centre, so there are as many distinct
    centres as there are distinct vectors, up to `size`. spherical: centres are kept at unit length.
    Returns centres [k, width] and how many vectors each has, fp32 [k]; k = min(size, distinct vectors).
    """
    vectors = vectors.float()
    centres = _seeds(vectors, size)
    size = len(centres)
    origin = torch.zeros_like(centres[0]) if spherical else vectors.mean(0)  # scores lose digits far from zero
    vectors, centres = vectors - origin, centres - origin
    lengths = vectors.square().sum(1)
    for iteration in range(iterations):
        indices, scores = nearest(vectors, centres)
        means, counts = cluster_means(vectors, indices, centres)
        centres = means if iteration == iterations - 1 else torch.lerp(centres, means, STEP)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = vectors[(lengths + scores).topk(len(empty)).indices]
        if spherical:
            centres = F.normalize(centres, dim=1)
    counts = torch.bincount(nearest(vectors, centres)[0], minlength=size).float()
    return centres + origin, counts


def cluster_means(vectors: Tensor, indices: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Means [k, width] of the vectors [n, width] that each centre was given (indices [n]), and how many, fp32 [k]; a
    centre without any stays."""
    counts = torch.bincount(indices, minlength=len(centres)).float()
    sums = torch.zeros_like(centres).index_add_(0, indices, vectors)
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres), counts


def _seeds(vectors: Tensor, size: int) -> Tensor:
    """Distinct vectors far from each other [k, width], k = min(size, distinct vectors)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    seeds = _plusplus(vectors[order[: SAMPLE * size]], size, generator)
    return seeds if len(seeds) == size else _plusplus(vectors[order], size, generator)


def _plusplus(sample: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++: draw with a chance in proportion to the squared distance from the seeds so far."""
    seeds = sample[:1]
    distance = (sample - seeds[0]).square().sum(1)
    while len(seeds) < size and bool(distance.max() > 0):
        count = min(max(size // ROUNDS, 1), size - len(seeds))
        # The largest of weight / exponential noise are a weighted draw without replacement.
        noise = torch.empty(len(sample)).exponential_(generator=generator).to(sample.device)
        found = (distance / noise).topk(count).indices
        drawn = torch.unique(sample[found[distance[found] > 0]], dim=0)
        if len(drawn) == 1:
            new = (sample - drawn[0]).square().sum(1)
        else:  # by differences: a seed's distance to itself must be 0
            new = (sample - drawn[nearest(sample, drawn)[0]]).square().sum(1)
        distance = torch.minimum(distance, new)
        seeds = torch.cat([seeds, drawn])
    return seeds
