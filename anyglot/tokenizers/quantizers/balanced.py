"""Clusters of equal sizes: k-means whose assignment is the cheapest one with as many vectors in each (Bennett 2000)."""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.kmeans import kmeans


@torch.no_grad()
def balanced_kmeans(vectors: Tensor, clusters: int, iterations: int = 5) -> Tensor:
    """The cluster int64 [n] of each of the vectors [n, width]; sizes differ by one at most. The same on every run."""
    from scipy.optimize import linear_sum_assignment

    centres = kmeans(vectors, min(clusters, len(vectors)))[0]
    count, clusters = len(vectors), len(centres)  # fewer where vectors are equal
    least, over = divmod(count, clusters)
    seats = torch.arange(clusters * (least + bool(over))) % clusters  # each cluster's last one may stay empty
    places = torch.zeros(count, dtype=torch.int64)
    for _ in range(iterations):
        distances = torch.cdist(vectors, centres).double()
        cost = distances.new_zeros(len(seats), len(seats))  # [vectors and fillers of seats that stay empty, seats]
        cost[:count] = distances[:, seats]
        cost[count:, : clusters * least] = (1 + float(distances.max())) * count  # dearer than any way without
        places = seats[torch.from_numpy(linear_sum_assignment(cost.numpy())[1][:count])]
        centres = torch.stack([vectors[places == cluster].mean(0) for cluster in range(clusters)])
    return places
