"""One rank of test_quantizer_ranks.py, run as `ranks_worker.py RANK WORLD FOLDER`; the test imports `train`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anyglot.tokenizers.quantizers import build

DIM, ROWS, LENGTH, STEPS = 5, 2, 24, 12


class Model(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = nn.Linear(DIM, DIM)
        self.quantizer = build(config, DIM)

    def forward(self, x: Tensor, mask: Tensor, count: float) -> Tensor:
        result = self.quantizer(self.encoder(x), mask)
        error = (result.vectors - x.nan_to_num()).square() * mask[..., None]
        return self.quantizer.loss(result) + error.sum() / (count * DIM)


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Vectors and mask of one rank; step 5 leaves rank 1 without any, step 7 rank 0, step 8 both."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(ROWS, LENGTH, DIM, generator=generator)
    mask = torch.rand(ROWS, LENGTH, generator=generator) < 0.8
    if (step, rank) in {(5, 1), (7, 0), (8, 0), (8, 1)}:
        mask[:] = False
    x[~mask] = 1e3  # the encoder would turn NaN into NaN gradients of its own
    return x, mask


def train(config: dict[str, Any], ranks: list[int], world: int) -> dict[str, Tensor]:
    """Train on the batches of `ranks`; alone, or as one of `world` ranks. Returns the final state."""
    torch.manual_seed(0)
    model = Model(config)
    wrapped = DistributedDataParallel(model) if len(ranks) < world else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        total = sum(int(batch(step, rank)[1].sum()) for rank in range(world))
        x, mask = (torch.cat(parts) for parts in zip(*[batch(step, rank) for rank in ranks], strict=True))
        optimizer.zero_grad()
        wrapped(x, mask, max(total * len(ranks) / world, 1)).backward()
        optimizer.step()
    return model.state_dict()


def main(rank: int, world: int, folder: Path) -> None:
    configs = json.loads((folder / "configs.json").read_text())
    early = Model(configs["vq"])  # built, and used, before there is a process group
    early(*batch(0, 0), 1.0)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    states = {name: train(config, [rank], world) for name, config in configs.items()}
    torch.manual_seed(0)
    early.quantizer.load_state_dict(Model(configs["vq"]).quantizer.state_dict())
    for step in range(6):
        early(*batch(step, rank), 1.0)
    states["early"] = {key: value.clone() for key, value in early.quantizer.state_dict().items()}
    dist.barrier()
    dist.destroy_process_group()
    early(*batch(0, 0), 1.0)  # and again alone
    tensors = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
    save_file(tensors, folder / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
