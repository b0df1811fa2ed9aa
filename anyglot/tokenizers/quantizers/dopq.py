"""Differentiable optimised product quantization (DOPQ: Lu et al. 2023): OPQ trained for a task, rotation and codebooks.

Which code is nearest has no gradient. Direct loss minimisation gives one: choose codes once by score and once by score
less a little of the loss; the score of the first should fall and that of the second rise (McAllester et al. 2010;
with Gumbel noise, so that codes near the border take part: Lorberbom et al. 2019).
"""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers.embedded_pq import descend
from anyglot.tokenizers.quantizers.fitted import Report
from anyglot.tokenizers.quantizers.pq import PQ, PQConfig


@dataclass
class DOPQConfig:
    """groups: of channels, which must divide them; size: codes of each.

    The task is that vectors of one class find each other: cross-entropy over a batch of distances between a rotated
    vector and quantized ones, relative to their mean distance times `temperature`. reconstruction: weight of the
    quantization error beside it, relative to that of the start. epsilon: how much of the loss the second choice of
    codes sees. noise: of the Gumbel noise, in mean squared errors of a code.
    """

    groups: int = MISSING
    size: int = 16
    alternations: int = 5
    temperature: float = 0.03
    reconstruction: float = 0.3
    epsilon: float = 1.0
    noise: float = 0.1
    epochs: int = 6
    lr: float = 2e-3

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        for name, least in (("alternations", 1), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        for name in ("temperature", "epsilon", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{where}.{name}: must be above 0, got {getattr(self, name)}")
        for name in ("reconstruction", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}: must be 0 or more, got {getattr(self, name)}")


class DOPQ(PQ):
    """See `DOPQConfig`. `fit` needs labels; encoding, decoding and search are OPQ's."""

    def __init__(self, config: DOPQConfig, dim: int, where: str) -> None:
        config.check(where)
        start = PQConfig(
            groups=config.groups,
            size=config.size,
            rotation="eigenvalue",
            learn_rotation=True,
            alternations=config.alternations,
        )
        super().__init__(start, dim, where)
        self.task = config

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        if labels is None:
            raise AnyglotError("dopq is supervised: fit(vectors, labels) needs the class of each vector")
        config = self.task
        unit = super().learn(x, labels, lambda done, total, error: None)[-1] * self.dim / config.groups
        spread = float(2 * (x - self.mean).square().sum(1).mean()) * config.temperature
        turn = torch.zeros(self.dim, self.dim, device=x.device, requires_grad=True)
        codebooks = self.codebooks[:, 0].clone().requires_grad_()
        start = self.rotation.clone()

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            rows = batch.to(x.device)
            rotated = (x[rows] - self.mean) @ start @ cayley(turn)
            parts = self.subspaces.split(rotated)
            scores = -torch.cdist(parts, codebooks).square() / unit
            noise = torch.empty(scores.shape).exponential_(generator=generator).log().neg().to(x.device)
            chosen: Tensor = _DirectLoss.apply(scores, codebooks, config.noise * noise, config.epsilon)
            logits = -torch.cdist(rotated, self.subspaces.join(chosen)).square() / spread
            same = labels[rows][:, None] == labels[rows]
            diagonal = torch.eye(len(rows), dtype=torch.bool, device=x.device)
            log_chance = logits.masked_fill(diagonal, -torch.inf).log_softmax(1)
            positive = same & ~diagonal
            found = log_chance.masked_fill(~positive, -torch.inf).logsumexp(1)[positive.any(1)]
            error = (parts - chosen).square().sum(2).mean() / unit
            attraction = found.sum() / max(len(found), 1)
            total: Tensor = config.reconstruction * error - attraction
            return total

        objective = descend([turn, codebooks], loss, len(x), config.epochs, config.lr, report)
        self.rotation.copy_(start @ cayley(turn.detach()))
        self.codebooks[:, 0] = codebooks.detach()
        return objective


def cayley(turn: Tensor) -> Tensor:
    """An orthogonal matrix of any square one [d, d]: (I + A)^-1 (I - A) of its skew part A; of zeros the identity."""
    skew = turn - turn.t()
    eye = torch.eye(len(turn), device=turn.device)
    rotation: Tensor = torch.linalg.solve(eye + skew, eye - skew)
    return rotation


class _DirectLoss(torch.autograd.Function):
    """Code vectors [groups, n, width] of the highest scores [groups, n, K], with the gradient of direct loss
    minimisation to the scores, and the usual one to the codebooks [groups, K, width]."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, codebooks: Tensor, noise: Tensor, epsilon: float) -> Tensor:
        noisy = scores + noise
        codes = noisy.argmax(2)
        ctx.save_for_backward(noisy, codebooks, codes)
        ctx.epsilon = epsilon
        return torch.stack([book[code] for book, code in zip(codebooks, codes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        noisy, codebooks, codes = ctx.saved_tensors
        change = grads[0] @ codebooks.transpose(1, 2)  # of the loss, to first order, by choosing each code
        step = ctx.epsilon / change.std().clamp(min=1e-30)
        better = (noisy - step * change).argmax(2)
        size = codebooks.shape[1]
        to_scores = (F.one_hot(codes, size) - F.one_hot(better, size)) / step
        to_books = torch.zeros_like(codebooks)
        for book, code, grad in zip(to_books, codes, grads[0], strict=True):
            book.index_add_(0, code, grad)
        return to_scores, to_books, None, None


CONFIG = DOPQConfig
QUANTIZER = DOPQ
