"""Hyperbolic vector quantization: a classifier in the Poincare ball chooses codes (HyperVQ, arXiv:2403.13015).

Vectors are tangent at the origin of a ball of curvature -c; the exponential map leads into it. Class k of a multinomial
logistic regression there (Shimizu et al. 2021, arXiv:2006.08210) has a decision hyperplane with unit normal u_k at
distance r_k from the origin, and a steepness s_k. The code vector is the hyperplane's point nearest to the origin, in
the tangent space again: r_k u_k, not a vector of its own. No loss pulls the two together: all is learned through the
gradient of a Gumbel-softmax sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.annealing import Annealed, check_annealing
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.gradients import straight_through
from anyglot.tokenizers.quantizers.soft_assignment import by_rows, gumbel_noise

START = 0.5  # sqrt(c) r
FARTHEST = 8.0  # sqrt(c) |h|: sinh(2 * 8)^2 is far inside fp32, and tanh(8) is 1 in it


@dataclass
class HyperbolicConfig:
    """size: codes. width: of the codes, 0 for that of the vectors; else projections lead there and back.

    curvature: c, of a ball of radius 1 / sqrt(c). temperature, final_temperature, anneal_steps: of the Gumbel-softmax;
    it falls exponentially; 0, 0: it stays.
    """

    size: int
    width: int = 0
    curvature: float = 1.0
    temperature: float = 1.0
    final_temperature: float = 0.0
    anneal_steps: int = 0

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        if self.width < 0:
            raise ConfigError(f"{where}.width: must be 0 (that of the vectors) or more, got {self.width}")
        if self.curvature <= 0:
            raise ConfigError(f"{where}.curvature: must be above 0, got {self.curvature}; a flat space is type 'vq'")
        check_annealing(self.temperature, self.final_temperature, self.anneal_steps, where)


class HyperbolicQuantizer(Quantizer):
    """One code per vector: a sample in training, the likeliest in evaluation. See `HyperbolicConfig`."""

    own_gradient = True

    def __init__(self, config: HyperbolicConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, config.width or dim, (config.size,), {})
        self.root = config.curvature**0.5
        self.normals = nn.Parameter(torch.randn(config.size, self.width) * self.width**-0.5)  # s_k u_k
        self.offsets = nn.Parameter(torch.full((config.size,), START / self.root))  # r_k, equal: no class leads
        self.temperature = Annealed(config.temperature, config.final_temperature, config.anneal_steps)

    def bound(self, h: Tensor) -> Tensor:
        """Shorten vectors of which fp32 could not tell the points in the ball apart."""
        farthest = FARTHEST / self.root
        return h * (farthest / h.norm(dim=-1, keepdim=True).clamp(min=farthest))

    def logits(self, h: Tensor) -> Tensor:
        """Of every class, [n, size]: 2 s / sqrt(c) asinh(sinh(2 a) u.h/|h| cosh(2 b) - cosh(2 a) sinh(2 b)), with
        a = sqrt(c) |h| and b = sqrt(c) r; asinh / (2 sqrt(c)) is the signed distance to the hyperplane.

        Tangent vectors lead there without the ball, near whose border fp32 has no digits left.
        """
        normals, turned = self.normals.float(), 2 * self.root * self.offsets.float()
        steepness = normals.norm(dim=1)
        # As hyperbolic functions of the length, sinh(2 a) / |h| stays finite where |h| is 0.
        squared = h.square().sum(1, keepdim=True)
        length = squared.clamp(min=1e-12).sqrt()
        along = h * (torch.sinh(2 * self.root * length) / length)
        units = F.normalize(normals, dim=1) * torch.cosh(turned)[:, None]
        inner = along @ units.t() - torch.cosh(2 * self.root * length) * torch.sinh(turned)
        return 2 / self.root * steepness * torch.asinh(inner)

    @torch.no_grad()
    def assign(self, h: Tensor) -> Tensor:
        found = list(by_rows(lambda rows: self.logits(rows).argmax(1), h, self.levels[0]))
        return torch.cat(found)[:, None]

    def lookup(self, codes: Tensor) -> Tensor:
        directions = F.normalize(F.embedding(codes[:, 0], self.normals).float(), dim=1)
        return directions * self.offsets.float()[codes[:, 0], None]

    def points(self) -> Tensor:
        """All code vectors, fp32 [size, width]."""
        return F.normalize(self.normals.float(), dim=1) * self.offsets.float()[:, None]

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return vectors if self.training else super().pass_gradient(h, vectors)  # samples carry it themselves

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        if self.training:
            temperature = self.temperature.value  # now: it has moved on when chunks are computed anew
            parts = list(by_rows(lambda rows: self._sampled(rows, temperature), h, self.levels[0]))
            codes = torch.cat([taken for _, taken in parts])[:, None]
            vectors = straight_through(torch.cat([mixed for mixed, _ in parts]), self.lookup(codes))
        else:
            codes = self.assign(h)
            vectors = self.lookup(codes).detach()
        stats = code_stats(count_codes(codes, self.levels[0]), self.levels[0])
        if self.updating:
            self.temperature.advance()
        return Quantized(vectors, codes, {}, stats)

    def _sampled(self, h: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Mixtures of code vectors [n, width], whose gradient is that of the assignment, and the codes drawn [n]."""
        logits = self.logits(h)
        logits = logits + gumbel_noise(torch.rand_like(logits))
        weights = torch.softmax(logits / temperature, 1)
        return weights @ self.points().detach(), logits.argmax(1)


CONFIG = HyperbolicConfig
QUANTIZER = HyperbolicQuantizer
