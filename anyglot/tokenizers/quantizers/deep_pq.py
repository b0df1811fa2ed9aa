"""Deep product quantization (DPQ: Klein and Wolf 2017, arXiv:1711.08589): supervised, with a soft and a hard head.

An encoder gives sub-vectors; each gives probabilities of its codes. The soft representation is the expected code
vector, the hard one that of the likeliest code, whose gradient passes through the probabilities. One classifier reads
both, and both are pulled to one centre per class (joint central loss).
"""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers.embedded_pq import EmbeddedPQ, affine, descend
from anyglot.tokenizers.quantizers.fitted import Report


@dataclass
class DeepPQConfig:
    """groups: of the embedding, each `width` channels with `size` codes. hidden: width of the encoder's hidden layer.

    central: weight of the joint central loss. sharp: of the Gini impurity of each vector's probabilities, which makes
    soft and hard agree. even: of the Gini concentration of their batch mean, which keeps codes in use.
    """

    groups: int = MISSING
    size: int = 16
    width: int = 16
    hidden: int = 256
    central: float = 0.1
    sharp: float = 0.1
    even: float = 1.0
    epochs: int = 12
    lr: float = 2e-3

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        for name, least in (("groups", 1), ("size", 2), ("width", 1), ("hidden", 1), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        for name in ("central", "sharp", "even"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}: a weight, 0 or more, got {getattr(self, name)}")
        if self.lr <= 0:
            raise ConfigError(f"{where}.lr: must be above 0, got {self.lr}")


class DeepPQ(EmbeddedPQ):
    """See `DeepPQConfig`. `fit` needs labels. Search compares a query's soft representation with hard ones."""

    mean: Tensor
    scale: Tensor
    first: Tensor
    second: Tensor
    scores: Tensor

    def __init__(self, config: DeepPQConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, config.groups, config.size, config.width)
        self.config = config
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("first", torch.zeros(dim + 1, config.hidden))  # the last row of each layer is its bias
        self.register_buffer("second", torch.zeros(config.hidden + 1, config.groups * config.width))
        self.register_buffer("scores", torch.zeros(config.groups, config.width + 1, config.size))

    def logits(self, h: Tensor, first: Tensor, second: Tensor, scores: Tensor) -> Tensor:
        """Scores [groups, n, size] of every code, of vectors [n, dim]."""
        hidden = affine((h - self.mean) / self.scale, first).relu()
        parts = affine(hidden, second).view(len(h), self.config.groups, self.config.width).transpose(0, 1)
        return affine(parts.relu(), scores)

    def assign(self, h: Tensor) -> Tensor:
        return self.logits(h, self.first, self.second, self.scores).argmax(2).t()

    def tables(self, queries: Tensor) -> Tensor:
        chances = self.logits(queries, self.first, self.second, self.scores).softmax(2)
        soft = chances @ self.codebooks
        return torch.cdist(soft, self.codebooks).square().transpose(0, 1)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        if labels is None:
            raise AnyglotError("deep_pq is supervised: fit(vectors, labels) needs the class of each vector")
        config = self.config
        self.mean.copy_(x.mean(0))
        self.scale.copy_((x - self.mean).square().mean().sqrt())
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int, spread: float) -> Tensor:
            return (torch.randn(*shape, generator=generator) * spread).to(x.device).requires_grad_()

        first = weights(*self.first.shape, spread=self.dim**-0.5)
        second = weights(*self.second.shape, spread=(2 / config.hidden) ** 0.5)
        scores = weights(*self.scores.shape, spread=config.width**-0.5)
        codebooks = weights(*self.codebooks.shape, spread=1.0)
        found, classes = torch.unique(labels, return_inverse=True)
        classifier = weights(config.groups * config.width, len(found), spread=(config.groups * config.width) ** -0.5)
        centres = weights(len(found), config.groups * config.width, spread=0.1)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            rows = batch.to(x.device)
            target = classes[rows]
            chances = self.logits(x[rows], first, second, scores).softmax(2)
            picked = F.one_hot(chances.argmax(2), config.size).to(chances.dtype)
            heads = []
            for choice in (chances, picked + chances - chances.detach()):
                heads.append((choice @ codebooks).transpose(0, 1).flatten(1))
            total = torch.stack([F.cross_entropy(head @ classifier, target) for head in heads]).sum()
            central = torch.stack([(head - centres[target]).square().mean() for head in heads]).sum()
            sharp = 1 - chances.square().sum(2).mean()
            even = chances.mean(1).square().sum(1).mean()
            return total + config.central * central + config.sharp * sharp + config.even * even

        trained = [first, second, scores, codebooks, classifier, centres]
        objective = descend(trained, loss, len(x), config.epochs, config.lr, report)
        for buffer, weight in zip((self.first, self.second, self.scores, self.codebooks), trained[:4], strict=True):
            buffer.copy_(weight.detach())
        self.fit_decoder(x)
        return objective


CONFIG = DeepPQConfig
QUANTIZER = DeepPQ
