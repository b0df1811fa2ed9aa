"""Soft vector quantization: in training a vector is a mixture of codes, or one code whose gradient reaches all of them.

    softmax     softmax(similarity / temperature), annealed until hard (SHVQ, Agustsson et al. 2017, arXiv:1704.00648)
    gumbel      the same with Gumbel noise: a sample (Jang et al. 2017, arXiv:1611.01144; dVAE, arXiv:2102.12092)
    neighbours  Bayes average of the nearest few codes (soft VQ-VAE, Wu and Flierl 2019, arXiv:1905.11062)
    convex      the best convex combination of codes (SCQ, arXiv:2310.03004); see `convex.py`

`hard` takes the most likely code, with the gradient of the soft assignment to all of them (IBQ, arXiv:2412.02692).
Evaluation, and what is exported, is the most similar code alone, without noise; stats["gap"] says what that changes.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import regularisers
from anyglot.tokenizers.quantizers.annealing import Annealed, check_annealing
from anyglot.tokenizers.quantizers.base import Projection, Quantized, code_stats, count_codes
from anyglot.tokenizers.quantizers.codebook import LearnedCodebook
from anyglot.tokenizers.quantizers.codebook_quantizer import CodebookQuantizer
from anyglot.tokenizers.quantizers.convex import convex_combination
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.entropy import entropy
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.soft_assignment import (
    by_rows,
    gumbel_noise,
    mean_assignment,
    most_similar,
    similarities,
)


@dataclass
class SoftConfig:
    """size: codes. width: of the codes, 0 for that of the vectors; else projections lead there and back.

    similarity: "distance" (-|z - c|^2), "dot" (z.c), or "linear" (a learned linear map gives the logits: dVAE).
    assignment: see above. hard: use one code in training too. deterministic: for gumbel, the share of vectors, drawn
    anew each step, that take their most similar code without noise (the stochastic mask of Reg-VQ).
    temperature, final_temperature, anneal_steps: it falls exponentially; 0, 0: it stays.
    neighbours: how many, for assignment "neighbours". ridge, iterations: for "convex", see `convex.py`.
    commitment: weight of |z - sg(c)|^2, c the most similar code. attraction: weight of |vector - sg(z)|^2, which
    pulls codes to vectors. rate: weight of the entropy of the mean assignment (SHVQ: fewer bits). divergence: weight
    of KL(assignment of each vector | uniform) (dVAE). regulariser: see `regularisers.py`.
    """

    size: int
    width: int = 0
    similarity: Literal["distance", "dot", "linear"] = "distance"
    assignment: Literal["softmax", "gumbel", "neighbours", "convex"] = "softmax"
    hard: bool = False
    deterministic: float = 0.0
    temperature: float = 1.0
    final_temperature: float = 0.0
    anneal_steps: int = 0
    neighbours: int = 0
    ridge: float = 0.1
    iterations: int = 60
    commitment: float = 0.0
    attraction: float = 0.0
    rate: float = 0.0
    divergence: float = 0.0
    kmeans_init: bool = True
    regulariser: dict[str, Any] = field(default_factory=dict)

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        if self.width < 0:
            raise ConfigError(f"{where}.width: must be 0 (that of the vectors) or more, got {self.width}")
        check_annealing(self.temperature, self.final_temperature, self.anneal_steps, where)
        for name in ("commitment", "attraction", "rate", "divergence"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}: must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.deterministic <= 1:
            raise ConfigError(f"{where}.deterministic: a share of vectors, 0 to 1, got {self.deterministic}")
        if self.deterministic > 0 and self.assignment != "gumbel":
            raise ConfigError(f"{where}.deterministic: only `assignment: gumbel` draws; leave it out")
        if (self.assignment == "neighbours") != (self.neighbours > 0) or self.neighbours > self.size:
            raise ConfigError(
                f"{where}.neighbours: 1 .. size for `assignment: neighbours`, else 0, got {self.neighbours}"
            )
        if self.ridge <= 0 or self.iterations < 1:
            raise ConfigError(f"{where}.ridge, iterations: must be above 0, got {self.ridge}, {self.iterations}")
        if self.assignment in ("neighbours", "convex"):
            if self.similarity != "distance" or self.hard:
                raise ConfigError(
                    f"{where}.assignment: {self.assignment!r} averages the nearest codes; it takes "
                    "`similarity: distance` and `hard: false`"
                )
            if self.rate > 0 or self.divergence > 0:
                raise ConfigError(f"{where}.rate, divergence: of `assignment: softmax` or `gumbel` only; set them to 0")
        elif self.attraction > 0 and not self.hard:
            raise ConfigError(
                f"{where}.attraction: of `hard`, neighbours and convex only: a hot mixture of all codes comes near a "
                "vector only if the codes fly apart; set it to 0"
            )
        if self.similarity == "linear" and (self.commitment > 0 or self.attraction > 0 or self.regulariser):
            raise ConfigError(
                f"{where}.similarity: a linear map needs vectors near no code; set commitment and attraction to 0, "
                "and `divergence` in place of a regulariser"
            )


class SoftQuantizer(CodebookQuantizer):
    """One codebook, one code per vector once trained. See `SoftConfig`."""

    own_gradient = True

    def __init__(self, config: SoftConfig, dim: int, where: str) -> None:
        config.check(where)
        weights = {name: getattr(config, name) for name in ("commitment", "attraction", "rate", "divergence")}
        super().__init__(dim, config.width or dim, (config.size,), weights)
        self.config = config
        self.codebook = LearnedCodebook(config.size, self.width, False, 0.99, config.kmeans_init, None)
        self.temperature = Annealed(config.temperature, config.final_temperature, config.anneal_steps)
        self.classifier = Projection(self.width, config.size) if config.similarity == "linear" else None
        self.regulariser = (
            regularisers.build(config.regulariser, f"{where}.regulariser") if config.regulariser else None
        )
        if self.regulariser is not None:
            self.weights["regulariser"] = self.regulariser.weight

    def assign(self, h: Tensor) -> Tensor:
        return self._most_similar(h)[:, None]

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        mixed = self.training and self.ready  # those carry their gradient themselves
        return vectors if mixed else super().pass_gradient(h, vectors)

    def choose(self, h: Tensor, updating: bool) -> Quantized:
        """Codes and, in training, mixtures, with losses; lowers the temperature afterwards if `updating`."""
        count = mean_count(h.shape[0], h.device, updating)
        codes = self._most_similar(h.detach())
        alone = self.codebook.lookup(codes)  # what evaluation gives
        losses: dict[str, Tensor] = {}
        if self.training:
            vectors, taken, losses = self.mixed(h, codes, count, updating)
            gap = (vectors - alone).detach().square().sum() / alone.detach().square().sum().clamp(min=1e-30)
        else:
            vectors, taken, gap = alone.detach(), codes, h.new_zeros(())
        if self.weights["commitment"] > 0:
            losses["commitment"] = F.mse_loss(h, alone.detach(), reduction="sum") / (count * self.width)
        if self.weights["attraction"] > 0:
            losses["attraction"] = F.mse_loss(vectors, h.detach(), reduction="sum") / (count * self.width)
        if self.regulariser is not None:
            losses["regulariser"] = self.regulariser(h, taken, self.codebook.vectors())
        stats = code_stats(count_codes(taken, self.config.size), self.config.size)
        stats |= {"gap": gap, "temperature": torch.tensor(self.temperature.value)}
        if updating:
            self.temperature.advance()
        return Quantized(vectors, taken[:, None], losses, stats)

    def mixed(self, h: Tensor, codes: Tensor, count: float, synced: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What training makes of vectors [n, width] whose most similar codes are `codes` [n].

        count, synced: as for `distributed.mean_count`. Returns vectors [n, width] with gradients to h and the codes,
        the code [n] that each took, and losses of the assignment.
        """
        codebook = self.codebook.vectors()
        if self.config.assignment == "neighbours":
            return self._average_of_neighbours(h, codebook), codes, {}
        if self.config.assignment == "convex":
            return self._convex_combination(h, codebook), codes, {}
        vectors, taken = [], []
        of_codes, of_vectors = h.new_zeros(self.config.size), h.new_zeros(())
        temperature = self.temperature.value  # now: it has moved on when chunks are computed anew
        parts = by_rows(lambda rows: self._sampled(rows, codebook, temperature), h, len(codebook))
        for mixture, code, assigned, uncertain in parts:
            vectors.append(mixture)
            taken.append(code)
            of_codes, of_vectors = of_codes + assigned, of_vectors + uncertain
        losses = {}
        if self.weights["rate"] > 0:
            losses["rate"] = entropy(mean_assignment(of_codes, synced))
        if self.weights["divergence"] > 0:
            losses["divergence"] = (h.shape[0] * math.log(self.config.size) - of_vectors) / count
        return torch.cat(vectors), torch.cat(taken) if self.config.hard else codes, losses

    def _sampled(self, h: Tensor, codebook: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors [n, width], codes [n], sum of the assignments [size], sum of their entropies, of some rows."""
        scores = self._similarities(h, codebook)
        log_p = torch.log_softmax(scores / temperature, 1)
        p = log_p.exp()
        sums = p.sum(0), -(p * log_p).sum()
        noiseless = torch.ones_like(scores[:, :1], dtype=torch.bool)
        if self.config.assignment == "gumbel":
            noiseless = torch.rand_like(scores[:, :1]) < self.config.deterministic
            scores = scores + torch.where(noiseless, 0.0, gumbel_noise(torch.rand_like(scores)))
            p = torch.softmax(scores / temperature, 1)
        taken = scores.argmax(1)
        if not self.config.hard and self.config.deterministic == 0:
            return p @ codebook, taken, *sums
        # One code: its gradient as a vector, and through the assignment that of the mixture.
        mixture = p @ codebook.detach()
        alone = self.codebook.lookup(taken) + (mixture - mixture.detach())
        return alone if self.config.hard else torch.where(noiseless, alone, p @ codebook), taken, *sums

    def _average_of_neighbours(self, h: Tensor, codebook: Tensor) -> Tensor:
        """E[code | vector] [n, width] over the nearest few codes, for Gaussian noise of variance temperature / 2."""

        temperature = self.temperature.value  # now: it has moved on when chunks are computed anew

        def average(rows: Tensor) -> Tensor:
            with torch.no_grad():
                found = similarities(rows, codebook, "distance").topk(self.config.neighbours, 1).indices
            near = codebook[found]
            chance = torch.softmax(-(rows[:, None] - near).square().sum(-1) / temperature, 1)
            return (chance[..., None] * near).sum(1)

        return torch.cat(list(by_rows(average, h, max(self.config.size, self.config.neighbours * self.width))))

    def _convex_combination(self, h: Tensor, codebook: Tensor) -> Tensor:
        """[n, width], see `convex.py`."""

        def combine(rows: Tensor) -> Tensor:
            near = nearest(rows, codebook)[0]
            return convex_combination(rows, codebook, near, self.config.ridge, self.config.iterations) @ codebook

        return torch.cat(list(by_rows(combine, h, self.config.size)))

    def _similarities(self, h: Tensor, codebook: Tensor) -> Tensor:
        if self.classifier is not None:
            return self.classifier(h)
        return similarities(h, codebook, "dot" if self.config.similarity == "dot" else "distance")

    @torch.no_grad()
    def _most_similar(self, h: Tensor) -> Tensor:
        if self.classifier is not None:
            return most_similar(h, self.classifier.weight.float(), self.classifier.bias.float())
        if self.config.similarity == "dot":
            return most_similar(h, self.codebook.vectors(), None)
        return nearest(h, self.codebook.vectors())[0]


CONFIG = SoftConfig
QUANTIZER = SoftQuantizer
