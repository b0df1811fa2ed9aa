"""Clusters of equal sizes: k-means whose assignment is the cheapest one with as many vectors in each (Bennett 2000)."""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.kmeans import kmeans


@torch.no_grad()
def balanced_kmeans(vectors: Tensor, clusters: int, iterations: int = 5) -> Tensor:
    """The cluster int64 [n] of each of the vectors [n, width]; sizes differ by one at most. The same on every run."""
    from scipy.optimize import linear_sum_assignment

    clusters = min(clusters, len(vectors))
    centres = kmeans(vectors, clusters)[0]
    seats = torch.arange(-(-len(vectors) // clusters) * clusters) % clusters  # as many of each, more than enough
    places = torch.zeros(len(vectors), dtype=torch.int64)
    for _ in range(iterations):
        distances = torch.cdist(vectors, centres)[:, seats[: len(centres) * (len(seats) // clusters)] % len(centres)]
        places = seats[torch.from_numpy(linear_sum_assignment(distances.double().numpy())[1])] % len(centres)
        centres = torch.stack([vectors[places == cluster].mean(0) for cluster in range(len(centres))])
    return places
