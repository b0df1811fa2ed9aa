"""Run by `torchrun`: ranks that share rows attend as one process does, forward and backward, whatever the heads."""

from types import SimpleNamespace

import torch
import torch.distributed as dist

from anyglot.lm.attention import KERNELS
from anyglot.train.engine import process_group
from anyglot.train.sequence import join

HEADS = ((4, 4), (4, 2), (4, 1), (6, 3))  # of queries, of keys
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7 + [2] * 3 + [-1] * 5, [0] * 19 + [1]])


def check(rank: int, world: int) -> None:
    """Compare this rank's places with those of the whole rows, for every kernel that trains on a CPU."""
    for heads, key_heads in HEADS:
        shared = join(world, SimpleNamespace(num_attention_heads=heads), DOCUMENTS.shape[1])
        generator = torch.Generator().manual_seed(heads)
        whole = [torch.randn(2, h, 20, 8, generator=generator) for h in (heads, key_heads, key_heads)]
        along = torch.randn(2, 20, heads, 8, generator=generator)
        mine = slice(rank * 20 // world, (rank + 1) * 20 // world)
        assert torch.equal(shared.whole(DOCUMENTS[:, mine]), DOCUMENTS)
        for backend in ("sdpa", "flash"):
            kernel = KERNELS[backend](DOCUMENTS, torch.float32)
            inputs = [tensor.clone().requires_grad_() for tensor in whole]
            wanted = kernel(*inputs, 0.4, 0.0)
            wanted_gradients = torch.autograd.grad((wanted * along).sum(), inputs)
            parts = [tensor[:, :, mine].clone().requires_grad_() for tensor in whole]
            result = shared.attend(kernel, *parts, 0.4, 0.0)
            gradients = torch.autograd.grad((result * along[:, mine]).sum(), parts)
            torch.testing.assert_close(result, wanted[:, mine], rtol=1e-4, atol=1e-5)
            for gradient, expected in zip(gradients, wanted_gradients, strict=True):
                torch.testing.assert_close(gradient, expected[:, :, mine], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    with process_group() as ranks:
        check(*ranks)
        if dist.get_rank() == 0:
            print("all equal")
