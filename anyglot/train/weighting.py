"""What every token counts in the loss of a global batch: weights by modality and level, and how they are normalised."""

from collections.abc import Mapping
from math import isfinite

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.meter import token_groups

NORMALISE = ("token", "sample", "modality")


class LossWeights:
    """The loss of a global batch, as weights of its tokens and what to divide their sum by.

    Both are of the whole batch, so that neither packing nor micro-batches nor the number of ranks changes the loss.

    Args:
        weights: of a modality ("speech", "text", "structure") or of one of its levels ("speech.1"), 1 where not named;
            a code's is the product of both.
        normalise: "token": the weighted mean over all tokens. "sample": each document's weighted mean first, then their
            mean; a document cut into several rows is as many samples. "modality": the mean of each modality (with its
            levels' weights) first, then their weighted mean over those modalities that the batch has.
    Raises:
        ConfigError: an unknown name, or a weight below 0.
    """

    def __init__(
        self, vocabulary: Vocabulary, weights: Mapping[str, float], normalise: str, device: torch.device
    ) -> None:
        if normalise not in NORMALISE:
            raise ConfigError(f"normalise is {normalise!r}; valid: {', '.join(NORMALISE)}")
        groups, names = token_groups(vocabulary)
        levels = [block for block in vocabulary.blocks if block.kind == "codes"]
        known = [*names, *(block.name for block in levels)]
        for name, weight in weights.items():
            if name not in known:
                raise ConfigError(f"modality_weights.{name}: valid names are {', '.join(known)}")
            if not (isfinite(weight) and weight >= 0):
                raise ConfigError(f"modality_weights.{name} must be 0 or more, not {weight}")
        self.normalise = normalise
        self.groups = groups.to(device)
        self.of_group = torch.tensor([weights.get(name, 1.0) for name in names], device=device)
        self.of_level = torch.ones(vocabulary.size, device=device)  # by id
        for block in levels:
            self.of_level[block.start : block.end] = weights.get(block.name, 1.0)

    def __call__(self, labels: Tensor, weights: Tensor, document_ids: Tensor) -> tuple[Tensor, float]:
        """Weights `[rows, length]` and their divisor. Every rank calls it with its share of the batch, in whole rows.

        Args:
            labels, weights: as in the batch. document_ids: `[rows, length]`, -1 for padding.
        """
        labels = labels.clamp(min=0)
        group, weighted = self.groups[labels], weights * self.of_level[labels]
        if self.normalise == "modality":
            sums = _sums(weighted, group, len(self.of_group))
            dist.all_reduce(sums)
            divisor = (self.of_group * (sums > 0)).sum(dtype=torch.float64)
            weighted = weighted * (self.of_group / sums.clamp(min=1e-9)).float()[group]
            return weighted, max(divisor.item(), 1e-9)
        weighted = weighted * self.of_group[group]
        if self.normalise == "sample":
            rows, length = labels.shape
            document = document_ids.clamp(min=0) + torch.arange(rows, device=labels.device)[:, None] * length
            sums = _sums(weighted, document, rows * length)
            weighted = weighted / sums.clamp(min=1e-9).float()[document]
            divisor = (sums > 0).sum().double()
        else:
            divisor = weighted.sum(dtype=torch.float64)
        dist.all_reduce(divisor)
        return weighted, max(divisor.item(), 1e-9)


def _sums(values: Tensor, index: Tensor, size: int) -> Tensor:
    """float64 `[size]`: the sum of the values of each index."""
    sums = torch.zeros(size, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, index.flatten(), values.flatten().double())
