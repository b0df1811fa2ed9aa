"""A process group of one process, for tests of what sums over ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def one_process() -> Iterator[None]:
    """Rank 0 of 1, without ports or environment variables."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
