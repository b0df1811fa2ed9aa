"""The batch that a run stopped on, kept for inspection: `<out>/failed/step-N.safetensors`."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.errors import AnyglotError
from anyglot.files import atomic_path
from anyglot.lm.vocabulary import Vocabulary


class NotFiniteError(AnyglotError):
    """A step's loss or gradient is NaN or infinite. batch: this rank's rows, tensors `[rows, length]`.

    nll: of this rank's labels in nats, `[rows, length]`: where it is not finite is where to look.
    """

    def __init__(self, message: str, batch: Mapping[str, Tensor], nll: Tensor) -> None:
        super().__init__(message)
        self.batch, self.nll = dict(batch), nll


def keep(error: NotFiniteError, out: Path, step: int, vocabulary: Vocabulary) -> AnyglotError:
    """Write the global batch of all ranks, and return the error to end the run with. Every rank calls it."""
    from safetensors.torch import save_file

    path = out / "failed" / f"step-{step:08d}.safetensors"
    tensors = {name: _of_all_ranks(tensor) for name, tensor in (error.batch | {"nll": error.nll}).items()}
    if dist.get_rank() == 0:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"step": str(step), "reason": str(error)})
        vocabulary.save(path.parent)
    return AnyglotError(f"{error}; what was in it: anyglot inspect {path}")


def _of_all_ranks(tensor: Tensor) -> Tensor:
    """The rows of all ranks, on the CPU; all have the same number."""
    tensor = tensor.detach().contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts).cpu()
