"""Hierarchical hyperbolic product quantization (HiHPQ: Qiu et al. 2024, arXiv:2401.07212): codes that keep neighbours
together, learned without labels.

The embedding is a product of hyperbolic spaces in the Lorentz model, one per group. Two noisy views of a vector should
find each other (contrastive loss between an embedding and soft-quantized ones), and their prototypes in a hierarchy of
clusters: trees fit into hyperbolic space with little distortion.
"""

from dataclasses import dataclass, field

import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.embedded_pq import EmbeddedPQ, affine, descend
from anyglot.tokenizers.quantizers.fitted import Report
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.rotation import pca
from anyglot.tokenizers.quantizers.search import nearest

RADIUS = 3.0  # embeddings keep within it: further out exp(radius) drowns what differs


@dataclass
class HiHPQConfig:
    """groups: hyperbolic spaces, each of `width` dimensions with `size` codes.

    temperature: of the contrastive losses; sharpness: of the soft assignment to codes, one over its temperature.
    noise, drop: of a view: Gaussian noise, relative to the vectors' deviation, and the share of channels set to their
    mean. prototypes: clusters at each depth of the hierarchy, finest first. hierarchy: weight of the loss over them.
    """

    groups: int = MISSING
    size: int = 16
    width: int = 16
    temperature: float = 0.5
    sharpness: float = 5.0
    noise: float = 0.5
    drop: float = 0.5
    prototypes: list[int] = field(default_factory=lambda: [64, 16])
    hierarchy: float = 1.0
    epochs: int = 8
    lr: float = 2e-3

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work with vectors of width `dim`."""
        for name, least in (("groups", 1), ("size", 2), ("width", 1), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        if self.groups * self.width > dim:
            raise ConfigError(f"{where}.width: {self.groups} groups of {self.width} exceed the {dim} channels")
        for name in ("temperature", "sharpness", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{where}.{name}: must be above 0, got {getattr(self, name)}")
        for name in ("noise", "hierarchy"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}: must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.drop < 1:
            raise ConfigError(f"{where}.drop: a share of the channels, 0 <= drop < 1, got {self.drop}")
        if any(size < 2 for size in self.prototypes) or sorted(self.prototypes, reverse=True) != list(self.prototypes):
            raise ConfigError(f"{where}.prototypes: finest first, each 2 or more, got {list(self.prototypes)}")


class HiHPQ(EmbeddedPQ):
    """See `HiHPQConfig`. Code vectors are kept as tangents at the origin; search compares by Lorentz distance."""

    mean: Tensor
    encoder: Tensor

    def __init__(self, config: HiHPQConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        super().__init__(dim, config.groups, config.size, config.width)
        self.config = config
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("encoder", torch.zeros(dim + 1, config.groups * config.width))

    def tangents(self, h: Tensor, encoder: Tensor) -> Tensor:
        """Embeddings [groups, n, width] of vectors [n, dim], as tangents at the origin."""
        parts = affine(h - self.mean, encoder).view(len(h), self.config.groups, self.config.width).transpose(0, 1)
        length = parts.square().sum(2, keepdim=True).clamp(min=1e-12).sqrt()
        return parts / (length / RADIUS).clamp(min=1)

    def tables(self, queries: Tensor) -> Tensor:
        points = on_hyperboloid(self.tangents(queries, self.encoder))
        return lorentz_distances(points, on_hyperboloid(self.codebooks)).transpose(0, 1)

    def assign(self, h: Tensor) -> Tensor:
        return self.tables(h).argmin(2)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        config = self.config
        self.mean.copy_(x.mean(0))
        deviation = (x - self.mean).square().mean().sqrt()
        self.start(x)
        encoder, codebooks = self.encoder.clone().requires_grad_(), self.codebooks.clone().requires_grad_()
        hierarchy: list[tuple[Tensor, Tensor]] = []

        def view(vectors: Tensor, generator: torch.Generator) -> Tensor:
            noise = torch.randn(vectors.shape, generator=generator).to(x.device) * deviation * config.noise
            kept = torch.rand(vectors.shape, generator=generator).to(x.device) >= config.drop
            return torch.where(kept, vectors + noise, self.mean)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            rows = batch.to(x.device)
            points = [on_hyperboloid(self.tangents(view(x[rows], generator), encoder)) for _ in range(2)]
            codes = on_hyperboloid(codebooks)
            own = torch.arange(len(rows), device=x.device)
            total = x.new_zeros(())
            for mine, other in (points, points[::-1]):
                chances = (-config.sharpness * lorentz_distances(other, codes)).softmax(2)
                found = lorentz_distances(mine, lorentz_mean(chances, codes)).mean(0)
                total = total + F.cross_entropy(-found / config.temperature, own) / 2
                for assigned, centres in hierarchy:
                    to_centres = lorentz_distances(mine, centres).mean(0)
                    share = config.hierarchy / (2 * len(hierarchy))
                    total = total + share * F.cross_entropy(-to_centres / config.temperature, assigned[rows])
            return total

        def cluster() -> None:
            hierarchy[:] = self.cluster(self.tangents(x, encoder.detach())) if config.hierarchy else []

        objective = descend([encoder, codebooks], loss, len(x), config.epochs, config.lr, report, cluster)
        self.encoder.copy_(encoder.detach())
        self.codebooks.copy_(codebooks.detach())
        self.fit_decoder(x)
        return objective

    def start(self, x: Tensor) -> None:
        """Principal components, dealt out to the groups in turn, about one from the origin; codes by k-means."""
        groups, width = self.config.groups, self.config.width
        axes = pca(x)[1][:, : groups * width]
        dealt = axes.view(self.dim, width, groups).transpose(1, 2).flatten(1)
        sizes = ((x - self.mean) @ dealt).view(len(x), groups, width).norm(dim=2).mean(0)
        self.encoder.zero_()
        self.encoder[:-1] = dealt / sizes.clamp(min=1e-12).repeat_interleave(width)
        for book, part in zip(self.codebooks, self.tangents(x, self.encoder), strict=True):
            centres = kmeans(part, self.config.size)[0]
            book[:] = centres[0]
            book[: len(centres)] = centres

    def cluster(self, tangents: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each depth the prototype of every vector [n], and the prototypes as points [groups, k, width + 1]; those
        of a depth are clusters of the ones before."""
        flat = tangents.transpose(0, 1).flatten(1)
        found: list[tuple[Tensor, Tensor]] = []
        members, assigned = flat, torch.arange(len(flat), device=flat.device)
        for size in self.config.prototypes:
            centres = kmeans(members, size)[0]
            assigned = nearest(members, centres)[0][assigned]
            parts = centres.view(len(centres), self.config.groups, self.config.width).transpose(0, 1)
            found.append((assigned, on_hyperboloid(parts)))
            members = centres
        return found


def on_hyperboloid(tangents: Tensor) -> Tensor:
    """The exponential map at the origin of the Lorentz model: tangents [..., w] to points [..., w + 1], time first."""
    length = tangents.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return torch.cat([length.cosh(), length.sinh() * tangents / length], -1)


def lorentz_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Lorentz distances -2 - 2 <x, y>, with <x, y> = -x0 y0 + x1 y1 + ..., of points [..., n, w + 1] and
    [..., k, w + 1]: [..., n, k]. It is 2 cosh(d) - 2 of their geodesic distance d."""
    flipped = torch.cat([-x[..., :1], x[..., 1:]], -1)
    return (-2 - 2 * flipped @ y.transpose(-1, -2)).clamp(min=0)


def lorentz_mean(weights: Tensor, points: Tensor) -> Tensor:
    """The points [..., n, w + 1] with the least weighted sum of squared Lorentz distances to points [..., k, w + 1]."""
    total = weights @ points
    length = (total[..., :1].square() - total[..., 1:].square().sum(-1, keepdim=True)).clamp(min=1e-12).sqrt()
    return total / length


CONFIG = HiHPQConfig
QUANTIZER = HiHPQ
