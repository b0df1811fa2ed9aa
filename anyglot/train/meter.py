"""What a language model run measures: bits per id of each modality, speed, padding, gradient norm, code usage."""

import time
from collections.abc import Mapping
from math import log

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import TEXT, Vocabulary

STRUCTURE = "structure"  # openers, headers, closers and the ids around turns and documents


def token_groups(vocabulary: Vocabulary) -> tuple[Tensor, list[str]]:
    """Which group each id is counted in: text, a modality's codes, or the structure around them.

    Returns:
        int64 `[vocabulary.size]` and the names of the groups.
    """
    lookup = vocabulary.lookup
    names = [*vocabulary.modality_names, STRUCTURE]
    groups = torch.full((vocabulary.size,), len(names) - 1)
    codes = torch.from_numpy(lookup.level >= 0)
    groups[codes] = torch.from_numpy(lookup.modality).long()[codes]
    groups[: vocabulary.text_size] = names.index(TEXT)
    return groups, names


class GroupSums:
    """Sums of nats and of ids per group, over steps and ranks."""

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        groups, self.names = token_groups(vocabulary)
        self.groups = groups.to(device)
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)

    def add(self, labels: Tensor, nll: Tensor, weights: Tensor) -> None:
        """Count ids of weight above 0: labels and weights `[rows, length]`, nll `[rows * length]` in nats."""
        counted = weights.flatten() > 0
        group = self.groups[labels.flatten()[counted]]
        self.sums[0].index_add_(0, group, nll[counted].double())
        self.sums[1].index_add_(0, group, torch.ones_like(group, dtype=torch.float64))

    def bits(self) -> dict[str, float]:
        """Bits per id of every group that occurred, over all ranks; starts anew."""
        dist.all_reduce(self.sums)
        nats, counts = self.sums.tolist()
        self.sums.zero_()
        return {
            f"bits/{name}": total / count / log(2)
            for name, total, count in zip(self.names, nats, counts, strict=True)
            if count
        }


class Meter:
    """Measures training steps on all ranks; `scalars` gives the means since it was last asked.

    weights: loss weight by modality, as the config names them. flops_per_token: of the model, forward and backward.
    peak: FLOPs per second that utilisation is quoted against.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Mapping[str, float],
        flops_per_token: float,
        peak: float,
        device: torch.device,
    ) -> None:
        self.sums = GroupSums(vocabulary, device)
        for name in weights:
            if name not in self.sums.names:
                raise ConfigError(f"modality_weights.{name}: valid names are {', '.join(self.sums.names)}")
        self.group_weights = torch.tensor([weights.get(name, 1.0) for name in self.sums.names], device=device)
        self.flops_per_token, self.peak = flops_per_token, peak
        self.seen = torch.zeros(vocabulary.size, dtype=torch.bool, device=device)
        self.code_blocks = [block for block in vocabulary.blocks if block.kind == "codes"]
        self._restart()

    def begin(self) -> None:
        """A step begins: only what lies between `begin` and `step` counts as training time."""
        self.began = time.monotonic()

    def weighted(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Loss weights `[rows, length]` times those of the labels' modalities."""
        return weights * self.group_weights[self.sums.groups[labels.clamp(min=0)]]

    def add(self, labels: Tensor, nll: Tensor, weights: Tensor) -> None:
        """Count a micro-batch: labels and weights `[rows, length]`, nll `[rows * length]`."""
        self.sums.add(labels, nll, weights)
        self.seen[labels[weights > 0]] = True

    def step(self, loss: float, gradient_norm: float, document_ids: Tensor) -> None:
        """Count an optimiser step: its loss and gradient norm, and this rank's document ids `[rows, length]`."""
        self.seconds += time.monotonic() - self.began
        self.steps += 1
        self.loss += loss
        self.gradient_norm += gradient_norm
        self.places += document_ids.numel()
        self.tokens += int((document_ids >= 0).sum())

    def scalars(self) -> dict[str, float]:
        """Means since the last call. Every rank calls it. utilisation: of `peak`, by all places, padding included."""
        counts = torch.tensor([self.places, self.tokens], dtype=torch.float64, device=self.seen.device)
        dist.all_reduce(counts)
        seen = self.seen.to(torch.int32)
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        self.seen |= seen.bool()
        places, tokens = counts.tolist()
        world = dist.get_world_size()
        values = {
            "loss": self.loss / self.steps,
            "gradient_norm": self.gradient_norm / self.steps,
            "tokens_per_second": tokens / self.seconds,
            "utilisation": places / self.seconds * self.flops_per_token / (self.peak * world),
            "padding": 1 - tokens / places,
        }
        usage = {
            f"codes_seen/{block.name}": float(self.seen[block.start : block.end].float().mean())
            for block in self.code_blocks
        }
        self._restart()
        return values | self.sums.bits() | usage

    def _restart(self) -> None:
        self.steps = self.places = self.tokens = 0
        self.loss = self.gradient_norm = self.seconds = 0.0
