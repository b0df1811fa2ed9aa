"""CompQ: all codebooks of a residual quantizer move together, by stochastic gradient descent on the winning codes."""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.beam import beam_encode, sum_of
from anyglot.tokenizers.quantizers.fitted import Report
from anyglot.tokenizers.quantizers.staged import kmeans_stage, staged
from anyglot.tokenizers.quantizers.summed import SummedQuantizer


@dataclass
class CompQConfig:
    """size: codes of each codebook. levels: how many codebooks. beam: paths kept while encoding, also in training.

    iterations: of k-means, which starts the codebooks stage by stage. epochs: passes over the vectors. batch_size:
    vectors between two updates. rate: of the way to the error's zero that a code moves for one vector at first; it
    falls linearly to 0.
    """

    size: int = MISSING
    levels: int = MISSING
    beam: int = 1
    iterations: int = 10
    epochs: int = 10
    batch_size: int = 256
    rate: float = 0.2

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        for name in ("levels", "beam", "iterations", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{where}.{name}: must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.rate <= 1:
            raise ConfigError(f"{where}.rate: must be above 0 and at most 1, got {self.rate}")


class CompetitiveQuantizer(SummedQuantizer):
    """Competitive quantization (Ozan et al. 2016, Competitive Quantization for Approximate Nearest Neighbor Search).

    The winner of a vector is a code vector of every layer; each moves along what all of them together leave over.
    """

    def __init__(self, config: CompQConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, config.levels, config.size)
        self.config = config

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        c = self.config
        books = staged(x, c.levels, kmeans_stage(c.size, c.iterations), c.beam, lambda error: None)
        self.codebooks.copy_(books)
        history = [self._error(x, books)]
        generator = torch.Generator().manual_seed(0)
        batches = -(-len(x) // c.batch_size)
        for epoch in range(c.epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for step, rows in enumerate(torch.split(order, c.batch_size)):
                rate = c.rate * (1 - (epoch * batches + step) / (c.epochs * batches))
                compete(x[rows], books, beam_encode(x[rows], books, c.beam), rate / c.levels)
            error = self._error(x, books)
            if error < min(history):  # the best are kept
                self.codebooks.copy_(books)
            history.append(error)
            report(epoch + 1, c.epochs, history[-1])
        return history

    def _error(self, x: Tensor, books: Tensor) -> float:
        return float((x - sum_of(books, beam_encode(x, books, self.config.beam))).square().sum(1).mean())

    def assign(self, h: Tensor) -> Tensor:
        return beam_encode(h, self.codebooks, self.config.beam)


def compete(x: Tensor, codebooks: Tensor, codes: Tensor, rate: float) -> None:
    """Move the chosen code vectors of codebooks [m, K, d], in place, by what vectors [n, d] have left over.

    A code that m vectors share goes 1 - (1 - rate)^m of the way of their mean error: as far as m single steps would.
    """
    left = x - sum_of(codebooks, codes)
    for codebook, chosen in zip(codebooks, codes.t(), strict=True):
        counts = torch.bincount(chosen, minlength=len(codebook)).float()[:, None]
        errors = torch.zeros_like(codebook).index_add_(0, chosen, left) / counts.clamp(min=1)
        codebook += (1 - (1 - rate) ** counts) * errors


CONFIG = CompQConfig
QUANTIZER = CompetitiveQuantizer
