"""What a language model run measures: bits per id of each modality and level, speed, padding, code usage, stability."""

import time
from math import log

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.lm.loss import TokenLoss
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
    for low, high in vocabulary.text_ranges:
        groups[low:high] = names.index(TEXT)
    return groups, names


class GroupSums:
    """Sums of a quantity of the ids and of their number, per group and level, over steps and ranks."""

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        groups, self.names = token_groups(vocabulary)
        levels = torch.from_numpy(vocabulary.lookup.level).long().clamp(min=0)
        self.levels = {m.spec.modality: len(m.levels) for m in vocabulary.modalities if len(m.levels) > 1}
        self.width = int(levels.max()) + 1
        self.cells = (groups * self.width + levels).to(device)
        self.sums = torch.zeros(2, len(self.names) * self.width, dtype=torch.float64, device=device)

    def add(self, labels: Tensor, values: Tensor, weights: Tensor) -> None:
        """Count ids of weight above 0: labels and weights `[rows, length]`, values `[rows * length]`."""
        counted = (weights.flatten() > 0).double()
        cell = self.cells[labels.flatten().clamp(min=0)]
        self.sums[0].index_add_(0, cell, values * counted)
        self.sums[1].index_add_(0, cell, counted)

    def bits(self) -> dict[str, float]:
        """Bits per id, of nats, of every group that occurred and of its levels, over all ranks; starts anew."""
        return {f"bits/{name}": total / count / log(2) for name, (total, count) in self._take().items()}

    def shares(self) -> dict[str, float]:
        """Every group's share of the sum over all, over all ranks; starts anew."""
        totals = {name: total for name, (total, _) in self._take().items() if name in self.names}
        return {name: total / max(sum(totals.values()), 1e-300) for name, total in totals.items()}

    def _take(self) -> dict[str, tuple[float, float]]:
        """Sum and count of what occurred: of a group by its name, of one of several levels as "speech.1"."""
        dist.all_reduce(self.sums)
        table = self.sums.view(2, len(self.names), self.width).to("cpu", copy=True)
        self.sums.zero_()
        found = {name: table[:, index].sum(1) for index, name in enumerate(self.names)}
        for name, levels in self.levels.items():
            found |= {f"{name}.{level}": table[:, self.names.index(name), level] for level in range(levels)}
        return {name: (float(total), float(count)) for name, (total, count) in found.items() if count}


class Meter:
    """Measures training steps on all ranks; `scalars` gives the means since it was last asked.

    flops_per_token: of the model, forward and backward. peak: FLOPs per second that utilisation is quoted against.
    """

    def __init__(self, vocabulary: Vocabulary, flops_per_token: float, peak: float, device: torch.device) -> None:
        self.sums, self.gradients = GroupSums(vocabulary, device), GroupSums(vocabulary, device)
        self.flops_per_token, self.peak = flops_per_token, peak
        self.seen = torch.zeros(vocabulary.size, dtype=torch.bool, device=device)
        self.log_z = torch.zeros(2, dtype=torch.float64, device=device)  # sums of log Z and 1 over targets
        self.squares = torch.zeros(2, dtype=torch.float64, device=device)  # of rms ^ 2 and 1, where that was measured
        self.log_z_max = torch.zeros((), device=device)
        self.code_blocks = [block for block in vocabulary.blocks if block.kind == "codes"]
        self._restart()

    def begin(self) -> None:
        """A step begins: only what lies between `begin` and `step` counts as training time."""
        self.began = time.monotonic()

    def add(self, labels: Tensor, loss: TokenLoss, weights: Tensor) -> None:
        """Count a micro-batch: labels and weights `[rows, length]`, and its loss."""
        self.sums.add(labels, loss.nll, weights)
        self.gradients.add(labels, loss.gradient_norm, weights)
        counted = weights.flatten() > 0
        number = counted.sum().double()
        self.log_z += torch.stack([loss.log_z.sum().double(), number])
        if loss.logit_rms is not None:
            self.squares += torch.stack([(loss.logit_rms**2).sum().double(), number])
        self.log_z_max = torch.maximum(self.log_z_max, loss.log_z.where(counted, -torch.inf).max())
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
        counts = torch.cat([counts, self.log_z, self.squares])
        dist.all_reduce(counts)
        dist.all_reduce(self.log_z_max, op=dist.ReduceOp.MAX)
        seen = self.seen.to(torch.int32)
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        self.seen |= seen.bool()
        places, tokens, log_z, targets, squares, measured = counts.tolist()
        world = dist.get_world_size()
        values = {
            "loss": self.loss / self.steps,
            "gradient_norm": self.gradient_norm / self.steps,
            "tokens_per_second": tokens / self.seconds,
            "utilisation": places / self.seconds * self.flops_per_token / (self.peak * world),
            "padding": 1 - tokens / places,
            "log_z": log_z / max(targets, 1),
            "log_z_max": float(self.log_z_max),
        }
        if measured:
            values["logit_rms"] = (squares / measured) ** 0.5
        shares = {f"gradient_share/{name}": share for name, share in self.gradients.shares().items()}
        usage = {
            f"codes_seen/{block.name}": float(self.seen[block.start : block.end].float().mean())
            for block in self.code_blocks
        }
        self._restart()
        return values | self.sums.bits() | shares | usage

    def _restart(self) -> None:
        self.steps = self.places = self.tokens = 0
        self.loss = self.gradient_norm = self.seconds = 0.0
        self.log_z.zero_()
        self.squares.zero_()
        self.log_z_max.fill_(-torch.inf)
