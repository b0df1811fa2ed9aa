"""Residual vector quantization fitted offline: codebooks by k-means, stage by stage, and made better together.

A choice of start, refinement and encoding gives RVQ, SQ, IRVQ, ERVQ, GRVQ, PRVQ, RVQ-P and RVQ-NP. Whatever was
done while fitting, the result is one codebook in full width for each code; a vector is the sum of its code vectors.
"""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import refine
from anyglot.tokenizers.quantizers.beam import beam_encode, descend
from anyglot.tokenizers.quantizers.fitted import Report
from anyglot.tokenizers.quantizers.rotated import alternate
from anyglot.tokenizers.quantizers.staged import (
    Stage,
    kmeans_stage,
    parametric_stage,
    projected_stage,
    staged,
    subspace_stage,
)
from anyglot.tokenizers.quantizers.summed import SummedQuantizer


@dataclass
class RVQConfig:
    """size: codes of each codebook. levels: how many codebooks, one code of each for a vector.

    start: how a stage's codebook is learned from the residuals:
        kmeans; subspace = k-means warm-started in few principal axes, then more (IRVQ, GRVQ); projected = k-means in
        the first `axes` principal axes (PRVQ); parametric = a product quantizer of `groups` blocks in the rotation
        that eigenvalue allocation gives each stage (RVQ-P); nonparametric = the same in one rotation for all stages,
        learned in turn with the codebooks (RVQ-NP).
    refine: what then improves them together, in `sweeps` over all stages: joint = each fitted given all others (ERVQ);
        stacked = the same, encoding top-down after each (SQ); revisit = each clustered anew (GRVQ).
    beam: paths kept while encoding, 1 = greedy. descent: sweeps that choose each code anew given the others.
    iterations: of k-means (each step of `subspace`).
    """

    size: int = MISSING
    levels: int = MISSING
    start: Literal["kmeans", "subspace", "projected", "parametric", "nonparametric"] = "kmeans"
    axes: int = 0
    groups: int = 1
    refine: Literal["none", "joint", "stacked", "revisit"] = "none"
    sweeps: int = 0
    beam: int = 1
    descent: int = 0
    iterations: int = 10

    def check(self, where: str, dim: int) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        for name, least in (("levels", 1), ("groups", 1), ("beam", 1), ("iterations", 1), ("descent", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        if (self.start == "projected") != (self.axes != 0) or not 0 <= self.axes <= dim:
            raise ConfigError(
                f"{where}.axes: how many principal axes `start: projected` keeps, 1 to {dim}; 0 for other starts; "
                f"got {self.axes}"
            )
        rotated = self.start in ("parametric", "nonparametric")
        if self.groups > 1 and not rotated:
            raise ConfigError(f"{where}.groups: only of `start: parametric` and `nonparametric`; leave it out")
        if self.levels % self.groups or dim % self.groups:
            raise ConfigError(
                f"{where}.groups: must divide levels ({self.levels}) and the width of the vectors ({dim}), "
                f"got {self.groups}"
            )
        if (self.refine == "none") != (self.sweeps == 0) or self.sweeps < 0:
            raise ConfigError(f"{where}.sweeps: how often `refine` goes over all stages, 0 if it is none")


class ResidualKMeans(SummedQuantizer):
    """See `RVQConfig`."""

    def __init__(self, config: RVQConfig, dim: int, where: str) -> None:
        config.check(where, dim)
        super().__init__(dim, config.levels, config.size)
        self.config = config

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        c = self.config
        history: list[float] = []
        stages = c.levels // c.groups
        total = c.sweeps + (c.iterations if c.start == "nonparametric" else stages)

        def note(error: float) -> None:
            history.append(error)
            report(len(history), total, error)

        if c.start == "nonparametric":
            self.codebooks.copy_(alternate(x, stages, c.groups, c.size, c.iterations, note))
        else:
            self.codebooks.copy_(staged(x, stages, self._stage(), c.beam, note))
        for codebooks, error in self._refined(x):
            self.codebooks.copy_(codebooks)
            note(error)
        return history

    def _stage(self) -> Stage:
        c = self.config
        if c.start == "subspace":
            return subspace_stage(c.size, c.iterations)
        if c.start == "projected":
            return projected_stage(c.size, c.iterations, c.axes)
        if c.start == "parametric":
            return parametric_stage(c.size, c.iterations, c.groups)
        return kmeans_stage(c.size, c.iterations)

    def _refined(self, x: Tensor) -> refine.Refined:
        c = self.config
        if c.refine == "joint":
            return refine.joint(x, self.codebooks, c.beam, c.sweeps)
        if c.refine == "stacked":
            return refine.stacked(x, self.codebooks, c.beam, c.sweeps)
        return refine.revisit(x, self.codebooks, c.beam, c.sweeps, c.iterations)

    def assign(self, h: Tensor) -> Tensor:
        codes = beam_encode(h, self.codebooks, self.config.beam)
        return descend(h, self.codebooks, codes, self.config.descent) if self.config.descent else codes


CONFIG = RVQConfig
QUANTIZER = ResidualKMeans
