"""What keeps the codes of a codebook in even use, as a term of the loss: `build({"kind": "entropy"}, where)`.

All kinds share one interface, `Regulariser.forward(h, codes, codebook)`, and treat the vectors of all ranks as one
batch wherever the quantizer's statistics do: in training mode with gradients enabled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.distributed import all_reduce_with_grad, joined_span
from anyglot.tokenizers.quantizers.soft_assignment import Similarity, assignment_entropies
from anyglot.tokenizers.quantizers.transport import relaxed_transport


class Regulariser(nn.Module):
    """A term of a quantizer's loss, unweighted; `weight` is what the config multiplies it with."""

    weight: float

    def forward(self, h: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
        """A scalar, with gradients to the vectors and to the codes where those learn.

        Args:
            h: vectors fp32 [n, width], where codes are chosen; n may be 0.
            codes: int64 [n], the codes they got.
            codebook: all codes, fp32 [size, width].
        """
        raise NotImplementedError

    @property
    def synced(self) -> bool:
        """Whether the batch is that of all ranks."""
        return self.training and torch.is_grad_enabled()


@dataclass
class EntropyConfig:
    """weight: of the term. temperature: of softmax(similarity / temperature); "distance": -|h - c|^2, "dot": h.c.
    diversity: weight of the second part in the first."""

    weight: float = 0.1
    temperature: float = 1.0
    similarity: Similarity = "distance"
    diversity: float = 1.0

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        _above_zero(self.temperature, f"{where}.temperature")
        if self.diversity < 0:
            raise ConfigError(f"{where}.diversity: must be 0 or more, got {self.diversity}")


class Entropy(Regulariser):
    """Each vector sure of its code, all codes wanted: mean of H(p) - diversity * H(mean of p) (arXiv:2310.05737)."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.config, self.weight = config, config.weight

    def forward(self, h: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
        of_each, of_mean = assignment_entropies(
            h, codebook, self.config.similarity, self.config.temperature, self.synced
        )
        return of_each - self.config.diversity * of_mean


@dataclass
class PriorConfig:
    """weight: of the term. temperature, similarity: of the soft assignment, as for "entropy"."""

    weight: float = 0.1
    temperature: float = 1.0
    similarity: Similarity = "distance"

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        _above_zero(self.temperature, f"{where}.temperature")


class Prior(Regulariser):
    """KL of the mean soft assignment to the uniform prior, 0 .. log size (Reg-VQ, arXiv:2303.06424)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config, self.weight = config, config.weight

    def forward(self, h: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
        _, of_mean = assignment_entropies(h, codebook, self.config.similarity, self.config.temperature, self.synced)
        return math.log(codebook.shape[0]) - of_mean


@dataclass
class WassersteinConfig:
    """weight: of the term. blur: of the entropic transport; uniformity: weight of KL(code weights | uniform); both in
    units of the mean squared distance between vectors and codes. points: at most so many vectors of the batch.
    iterations: of Sinkhorn."""

    weight: float = 1.0
    blur: float = 0.05
    uniformity: float = 1.0
    points: int = 512
    iterations: int = 30

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        _above_zero(self.blur, f"{where}.blur")
        _above_zero(self.uniformity, f"{where}.uniformity")
        _at_least(self.points, 1, f"{where}.points")
        _at_least(self.iterations, 1, f"{where}.iterations")


class Wasserstein(Regulariser):
    """Optimal transport between the vectors and the weighted codes, plus KL of the weights to uniform (VQ-WAE,
    arXiv:2302.05917); moves vectors and codes towards each other, a whole distribution at a time.

    The paper learns the weights of the codes by gradient steps. Here they are minimised out exactly, for they only
    relax one marginal of the transport: nothing has to be learned, and the gradient is that of the optimum.
    """

    def __init__(self, config: WassersteinConfig) -> None:
        super().__init__()
        self.config, self.weight = config, config.weight

    def forward(self, h: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
        points = spread_points(h, self.config.points, self.synced)
        if len(points) == 0:
            return h.sum() + 0 * codebook.sum()
        cost = torch.cdist(points, codebook, compute_mode="donot_use_mm_for_euclid_dist").square() / h.shape[1]
        unit = cost.detach().mean().clamp(min=1e-12)
        plan = relaxed_transport(
            cost.detach(), float(unit * self.config.blur), float(unit * self.config.uniformity), self.config.iterations
        )
        weights = plan.sum(0)
        to_uniform = (weights * (weights * len(weights)).clamp(min=1e-30).log()).sum()
        # At the optimum the gradient with respect to the costs is the plan itself (envelope theorem).
        return (plan * cost).sum() + self.config.uniformity * unit * to_uniform


@dataclass
class PersistenceConfig:
    """weight: of the term. points: at most so many vectors of the batch, for their spanning tree."""

    weight: float = 0.1
    points: int = 128

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        _at_least(self.points, 3, f"{where}.points")


class Persistence(Regulariser):
    """1 - persistent entropy of the vectors / its maximum, 0 .. 1 (HC-VQ, arXiv:2211.14363).

    The lifetimes of connected components (0-dimensional persistent homology) are the lengths of the edges of the
    vectors' minimum spanning tree. Their entropy is highest where the vectors are evenly spaced, lowest where tight
    clumps lie far apart: few codes, with nothing in between.
    """

    def __init__(self, config: PersistenceConfig) -> None:
        super().__init__()
        self.config, self.weight = config, config.weight

    def forward(self, h: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
        points = spread_points(h, self.config.points, self.synced)
        if len(points) < 3:  # one edge or none has no entropy to speak of
            return h.sum() * 0 + 0 * codebook.sum()
        start, end = minimum_spanning_tree(points.detach())
        lengths = (points[start] - points[end]).square().sum(1).clamp(min=1e-12).sqrt()
        share = lengths / lengths.sum()
        return 1 + (share * share.log()).sum() / math.log(len(share))


def minimum_spanning_tree(points: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends int64 [n - 1] of the edges of the Euclidean minimum spanning tree of points [n, width] (Prim)."""
    gaps = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()
    outside = gaps[0].copy()  # distance of each point to the tree, infinite in it
    nearest = np.zeros(len(gaps), dtype=np.int64)  # which point of the tree is so near
    outside[0] = math.inf
    edges = np.zeros((2, len(gaps) - 1), dtype=np.int64)
    for edge in range(len(gaps) - 1):
        new = int(outside.argmin())
        edges[:, edge] = nearest[new], new
        closer = (gaps[new] < outside) & (outside < math.inf)
        nearest[closer] = new
        outside[closer] = gaps[new][closer]
        outside[new] = math.inf
    start, end = torch.from_numpy(edges).to(points.device)
    return start, end


def spread_points(h: Tensor, points: int, synced: bool) -> Tensor:
    """At most `points` of the vectors [n, width], evenly spread over the batch; of all ranks, with their gradients,
    if `synced`."""
    first, total = joined_span(h.shape[0], h.device) if synced else (0, h.shape[0])
    picked = torch.arange(min(points, total), device=h.device) * total // max(min(points, total), 1)
    if not synced:
        return h[picked]
    mine = (picked >= first) & (picked < first + h.shape[0])
    rows = h.new_zeros(len(picked), h.shape[1]).index_put((mine.nonzero()[:, 0],), h[picked[mine] - first])
    return all_reduce_with_grad(rows)


def _above_zero(value: float, where: str) -> None:
    if value <= 0:
        raise ConfigError(f"{where}: must be above 0, got {value}")


def _at_least(value: int, least: int, where: str) -> None:
    if value < least:
        raise ConfigError(f"{where}: must be {least} or more, got {value}")


KINDS: dict[str, tuple[Any, Any]] = {
    "entropy": (EntropyConfig, Entropy),
    "prior": (PriorConfig, Prior),
    "wasserstein": (WassersteinConfig, Wasserstein),
    "persistence": (PersistenceConfig, Persistence),
}


def build(mapping: Mapping[str, Any], where: str) -> Regulariser:
    """Make the regulariser that a config describes, e.g. `{"kind": "prior", "weight": 0.1}`.

    Raises ConfigError for an unknown kind or key, or a value that cannot work.
    """
    options = dict(mapping)
    kind = options.pop("kind", None)
    if kind not in KINDS:
        raise ConfigError(f"{where}.kind: no regulariser {kind!r}; valid: {', '.join(KINDS)}")
    schema, regulariser = KINDS[kind]
    config = typed(schema, options, where)
    if config.weight <= 0:
        raise ConfigError(f"{where}.weight: must be above 0, got {config.weight}; leave the regulariser out for none")
    config.check(where)
    return regulariser(config)
