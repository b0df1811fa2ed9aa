"""TRQ: before the next stage, the residuals of each cluster are rotated so that those of all clusters look alike."""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.rotation import pca, procrustes
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.staged import clusters, lloyd


@dataclass
class TRQConfig:
    """size: codes of each codebook. levels: how many. iterations: of k-means, which starts each codebook.
    alignments: how often the rotations and then the codebook of a level are fitted anew."""

    size: int = MISSING
    levels: int = MISSING
    iterations: int = 10
    alignments: int = 3

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        for name, least in (("levels", 2), ("iterations", 1), ("alignments", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")


class TransformedResidualQuantizer(FittedQuantizer):
    """Transformed residual quantization (Yuan and Liu 2015, arXiv:1512.06925).

    rotations [levels - 1, size, dim, dim]: what the residual of each code is multiplied by before the next level.
    A vector is c1 + R1' (c2 + R2' (c3 + ...)), R_i being that of the code c_i. The rotations start from the principal
    axes of each cluster and are then aligned to the codebook they share (Procrustes).
    """

    codebooks: Tensor
    rotations: Tensor

    def __init__(self, config: TRQConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, (config.size,) * config.levels)
        self.config = config
        self.register_buffer("codebooks", torch.zeros(config.levels, config.size, dim))
        self.register_buffer("rotations", torch.eye(dim).expand(config.levels - 1, config.size, dim, dim).clone())

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        c = self.config
        history: list[float] = []
        left, codes = x, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for level in range(c.levels):
            if level == 0:
                self.codebooks[0] = clusters(left, c.size, c.iterations)
            else:
                left = self._align(left, codes, level)
            codes = nearest(left, self.codebooks[level])[0]
            left = left - self.codebooks[level][codes]
            history.append(float(left.square().sum(1).mean()))
            report(level + 1, c.levels, history[-1])
        return history

    def _align(self, left: Tensor, before: Tensor, level: int) -> Tensor:
        """Fit the rotations of the codes `before` [n] and the codebook of `level`; returns [n, d] rotated."""
        rotations = self.rotations[level - 1]
        members = [(before == code).nonzero()[:, 0] for code in range(self.config.size)]
        for code, rows in enumerate(members):
            if len(rows) > 1:
                rotations[code] = pca(left[rows])[1]
        turned = turn(left, rotations, before)
        codebook = clusters(turned, self.config.size, self.config.iterations)
        for _ in range(self.config.alignments):
            decoded = codebook[nearest(turned, codebook)[0]]
            for code, rows in enumerate(members):
                if len(rows) > 1:
                    rotations[code] = _aligned(left[rows], decoded[rows], rotations[code])
            turned = turn(left, rotations, before)
            codebook = lloyd(turned, codebook, 2)
        self.codebooks[level] = codebook
        return turned

    def assign(self, h: Tensor) -> Tensor:
        codes = torch.zeros(h.shape[0], len(self.levels), dtype=torch.int64, device=h.device)
        left = h
        for level, codebook in enumerate(self.codebooks):
            if level:
                left = turn(left, self.rotations[level - 1], codes[:, level - 1])
            codes[:, level] = nearest(left, codebook)[0]
            left = left - codebook[codes[:, level]]
        return codes

    def lookup(self, codes: Tensor) -> Tensor:
        total = torch.zeros(codes.shape[0], self.dim, device=codes.device)
        for level in reversed(range(len(self.levels))):
            if level < len(self.levels) - 1:
                total = turn(total, self.rotations[level].transpose(1, 2), codes[:, level])
            chosen = codes[:, level, None]
            total = total + torch.where(chosen >= 0, self.codebooks[level][chosen[:, 0].clamp(min=0)], 0.0)
        return total


def _aligned(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """The rotation that brings x [n, d] nearest to y, drawn to where it was: code vectors span few dimensions, and in
    the others Procrustes alone would turn the residuals of every cluster another way."""
    pull = (x.square().sum() / x.shape[1]).sqrt()
    eye = torch.eye(x.shape[1], device=x.device)
    return procrustes(torch.cat([x, pull * eye]), torch.cat([y, pull * start]))


def turn(vectors: Tensor, rotations: Tensor, codes: Tensor) -> Tensor:
    """Vectors [n, d], each times the rotation [K, d, d] of its code [n]; those of code -1 as they are."""
    turned = vectors.clone()
    for code in torch.unique(codes).tolist():
        if code >= 0:
            rows = codes == code
            turned[rows] = vectors[rows] @ rotations[code]
    return turned


CONFIG = TRQConfig
QUANTIZER = TransformedResidualQuantizer
