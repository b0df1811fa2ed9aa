"""Several processes training one small model: plain data parallelism over torch.distributed, without a wrapper.

`DistributedDataParallel` reduces during one backward pass per forward; an adversarial step has several, over parts of
the model. So gradients are averaged explicitly, in one all-reduce after each backward pass.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over ranks. Which parameters have one must be the same on all ranks."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat.div_(self.size)
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def agree(self, number: int) -> int:
        """The number that the first rank has."""
        if self.size == 1:
            return number
        shared: Tensor = torch.tensor([number], device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.broadcast(shared, 0)
        return int(shared.item())


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
        torch.distributed.barrier()  # without it gloo now and then aborts at exit
    finally:
        torch.distributed.destroy_process_group()
