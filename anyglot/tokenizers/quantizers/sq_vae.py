"""Stochastic quantization whose noise anneals itself (SQ-VAE, Takida et al. 2022, arXiv:2205.07547), and its residual
stack (RSQ-VAE, part of HQ-VAE, Takida et al. 2024, arXiv:2401.00365).

A vector is a sum of code vectors plus Gaussian noise of learned variance s^2 = s_1^2 + ... + s_L^2. In training each
level draws its code from q(k) ~ exp(-|residual - c_k|^2 / 2 s_l^2), softened by Gumbel-softmax; the loss is the
negative evidence bound |z - sum|^2 / 2 s^2 - sum of H(q). A variance too small is punished by the first term, one too
large by what the decoder makes of the noise. So it falls as reconstruction improves, and no codebook loss, commitment,
moving average, k-means or reset is needed. It takes a decoder with a likelihood (dim / 2 log of the mean squared
error, `objective: likelihood` in the quantizer stage): beside a plain mean squared error, set `weight` to 2 / dim times
the error that is to be reached.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.annealing import Annealed, check_annealing
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.codebook import LearnedCodebook
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.soft_assignment import by_rows, gumbel_noise, similarities


@dataclass
class SQVAEConfig:
    """size: codes of a level. levels: how many, each of what the levels before left over. width: of the codes, 0 for
    that of the vectors; else projections lead there and back.

    variance: that the noise of the first level starts from; each level after it starts at a quarter of the one before.
    temperature, final_temperature, anneal_steps: of Gumbel-softmax; it falls exponentially, or with 0, 0 stays.
    weight: of the evidence bound, see above.
    """

    size: int
    levels: int = 1
    width: int = 0
    variance: float = 1.0
    temperature: float = 1.0
    final_temperature: float = 0.0
    anneal_steps: int = 0
    weight: float = 1.0

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        if self.levels < 1:
            raise ConfigError(f"{where}.levels: must be 1 or more, got {self.levels}")
        if self.width < 0:
            raise ConfigError(f"{where}.width: must be 0 (that of the vectors) or more, got {self.width}")
        if self.variance <= 0 or self.weight <= 0:
            raise ConfigError(f"{where}.variance, weight: must be above 0, got {self.variance}, {self.weight}")
        check_annealing(self.temperature, self.final_temperature, self.anneal_steps, where)


class StochasticQuantizer(Quantizer):
    """Codebooks whose codes are drawn in training and nearest in evaluation. See `SQVAEConfig`."""

    own_gradient = True

    def __init__(self, config: SQVAEConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, config.width or dim, (config.size,) * config.levels, {"evidence": config.weight})
        self.size = config.size
        stack = [LearnedCodebook(config.size, self.width, False, 0.99, False, None) for _ in range(config.levels)]
        with torch.no_grad():
            for level, codebook in enumerate(stack):
                codebook.weight.mul_(0.5**level)  # residuals are smaller
        self.stack = nn.ModuleList(stack)
        start = config.variance * 0.25 ** torch.arange(config.levels)
        self.log_variance = nn.Parameter(start.log())
        self.temperature = Annealed(config.temperature, config.final_temperature, config.anneal_steps)

    @property
    def codebooks(self) -> list[LearnedCodebook]:
        """One per level."""
        return cast(list[LearnedCodebook], list(self.stack))

    @property
    def variances(self) -> Tensor:
        """Of the noise of each level, fp32 [levels], with gradient."""
        return self.log_variance.float().exp()

    def assign(self, h: Tensor) -> Tensor:
        found, total = [], torch.zeros_like(h)
        for codebook in self.codebooks:
            found.append(nearest(h - total, codebook.vectors())[0])
            total = total + codebook.lookup(found[-1])
        return torch.stack(found, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        total = torch.zeros(codes.shape[0], self.width, device=codes.device)
        for level, codebook in enumerate(self.codebooks):
            taken = codes[:, level : level + 1]
            total = total + torch.where(taken >= 0, codebook.lookup(taken[:, 0].clamp(min=0)), 0.0)
        return total

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return vectors if self.training else super().pass_gradient(h, vectors)  # samples carry it themselves

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        codes = self.assign(h.detach())
        count = mean_count(h.shape[0], h.device, self.updating)
        variances = self.variances
        total, uncertainty = torch.zeros_like(h), h.new_zeros(())
        for level, codebook in enumerate(self.codebooks):
            drawn, entropy = self._draw(h - total, codebook.vectors(), variances[level])
            if not self.training:
                drawn = codebook.lookup(codes[:, level]).detach()
            total, uncertainty = total + drawn, uncertainty + entropy
        distance = (h - total).square().sum() / (2 * variances.sum())
        most = h.shape[0] * len(self.levels) * math.log(self.size)  # so that the bound is 0 or more
        losses = {"evidence": (distance + most - uncertainty) / count}
        stats: dict[str, Tensor] = {}
        for level, size in enumerate(self.levels):
            found = code_stats(count_codes(codes[:, level], size), size)
            stats |= {f"{name}_{level}": value for name, value in found.items()}
            stats[f"variance_{level}"] = variances[level].detach()
        for name in ("usage", "perplexity"):
            stats[name] = torch.stack([stats[f"{name}_{level}"] for level in range(len(self.levels))]).mean()
        alone = self.lookup(codes).detach()
        stats["gap"] = (total.detach() - alone).square().sum() / alone.square().sum().clamp(min=1e-30)
        if self.updating:
            self.temperature.advance()
        return Quantized(total, codes, losses, stats)

    def _draw(self, residual: Tensor, codebook: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """A sample for each residual [n, width], between code vectors, and the sum of the entropies of the draws."""

        temperature = self.temperature.value  # now: it has moved on when chunks are computed anew

        def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
            log_q = torch.log_softmax(similarities(rows, codebook, "distance") / (2 * variance), 1)
            noise = gumbel_noise(torch.rand_like(log_q)) if self.training else 0.0
            drawn = torch.softmax((log_q + noise) / temperature, 1) @ codebook
            return drawn, -(log_q.exp() * log_q).sum()

        parts = list(by_rows(draw, residual, self.size))
        return torch.cat([part[0] for part in parts]), torch.stack([part[1] for part in parts]).sum()


CONFIG = SQVAEConfig
QUANTIZER = StochasticQuantizer
