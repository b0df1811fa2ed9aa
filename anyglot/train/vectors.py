"""Vectors to train quantizers on: a safetensors file with `train` and `heldout` [n, width], perhaps with labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anyglot.errors import AnyglotError


@dataclass
class VectorsConfig:
    """file: as `anyglot fetch vectors` writes it. train, heldout: use so many, spread evenly; 0 takes all."""

    file: str
    train: int = 0
    heldout: int = 0


@dataclass
class Vectors:
    """train, heldout: fp32 [n, width]. train_labels, heldout_labels: int64 [n], the class of each, or None."""

    train: Tensor
    heldout: Tensor
    train_labels: Tensor | None
    heldout_labels: Tensor | None

    @property
    def width(self) -> int:
        return self.train.shape[1]


def load_vectors(config: VectorsConfig) -> Vectors:
    """Read a file of vectors. Raises AnyglotError naming the file if it is missing, damaged or of another form."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(config.file)
    if not path.exists():
        raise AnyglotError(f"{path}: no such file; `anyglot fetch vectors --out runs/vectors` makes vectors to try")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise AnyglotError(f"{path}: not a safetensors file ({error}); make it again") from error
    for name in ("train", "heldout"):
        if name not in tensors or tensors[name].ndim != 2 or not tensors[name].is_floating_point():
            raise AnyglotError(
                f"{path}: needs a float tensor {name!r} [n, width]; it has: {', '.join(sorted(tensors))}"
            )
        labels = tensors.get(f"{name}_labels")
        if labels is not None and (labels.shape != tensors[name].shape[:1] or labels.is_floating_point()):
            raise AnyglotError(
                f"{path}: '{name}_labels' must be integers [{len(tensors[name])}], one per vector, got {labels.dtype} "
                f"{list(labels.shape)}"
            )
    if tensors["train"].shape[1] != tensors["heldout"].shape[1]:
        raise AnyglotError(f"{path}: 'train' and 'heldout' differ in width; make them of the same vectors")
    chosen: dict[str, Tensor] = {}
    for name, count in (("train", config.train), ("heldout", config.heldout)):
        rows = _spread(len(tensors[name]), count)
        chosen[name] = tensors[name][rows].float()
        if f"{name}_labels" in tensors:
            chosen[f"{name}_labels"] = tensors[f"{name}_labels"][rows]
    return Vectors(chosen["train"], chosen["heldout"], chosen.get("train_labels"), chosen.get("heldout_labels"))


def _spread(total: int, count: int) -> Tensor:
    """Indices of `count` rows of `total`, evenly spread; all of them for 0 or too many."""
    if count <= 0 or count >= total:
        return torch.arange(total)
    return torch.arange(count) * total // count
