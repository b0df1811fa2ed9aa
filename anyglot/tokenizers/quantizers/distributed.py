"""Collectives of the quantizers. Each asks at call time whether there are ranks: modules may be built earlier."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks train together now; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of the ranks this process is."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place, outside autograd."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's values, in place."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0].clone())


def all_reduce_with_grad(tensor: Tensor) -> Tensor:
    """Sum over ranks inside autograd.

    Every rank computes the same loss from the sum, so the backward pass sums their equal gradients; averaging
    parameter gradients over ranks, as DistributedDataParallel does, then gives the gradient of that one loss.
    """
    summed: Tensor = _SumOverRanks.apply(tensor) if world_size() > 1 else tensor
    return summed


def mean_count(count: int, device: torch.device, synced: bool) -> float:
    """What to divide a local sum by, so that the average over ranks is the mean over all vectors of all ranks.

    Ranks may hold unequal numbers of vectors, or none. Without `synced` it is the local count. Never 0.
    """
    if synced and world_size() > 1:
        total = all_reduce(torch.tensor(float(count), dtype=torch.float64, device=device))
        return max(total.item() / world_size(), 1.0 / world_size())
    return float(max(count, 1))


def joined_span(count: int, device: torch.device) -> tuple[int, int]:
    """Where this rank's rows lie in the batch joined over ranks, in rank order: (first row, rows of all ranks)."""
    if world_size() == 1:
        return 0, count
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = count
    held = all_reduce(counts).tolist()
    return sum(held[: dist.get_rank()]), sum(held)


def joined_rows(rows: Tensor, indices: Tensor, start: int) -> Tensor:
    """Rows `indices` [m] of the batch joined over ranks; this rank holds `rows` [n, width] from row `start` on.

    Every rank gets the same [m, width] and must ask for the same indices; a rank without rows takes part too.
    """
    local = indices.to(rows.device) - start
    mine = (local >= 0) & (local < rows.shape[0])
    picked = rows.new_zeros(indices.shape[0], rows.shape[1])
    picked[mine] = rows[local[mine]]
    return all_reduce(picked)
