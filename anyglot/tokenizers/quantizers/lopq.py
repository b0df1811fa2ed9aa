"""Locally optimised product quantization (LOPQ: Kalantidis and Avrithis 2014): a coarse cell, then a product quantizer
of the residual, rotated as suits that cell.

The sub-codebooks are shared by the cells: after their rotations, residuals are distributed alike. So a cell costs one
rotation, and needs few vectors.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.subspaces import Subspaces, nearest_codes, start_codebooks, sum_lookups, take


@dataclass
class LOPQConfig:
    """cells: of the coarse quantizer. groups: of channels, which must divide them; size: codes of each.

    rotation: of residuals: "none", "global" (the same in all cells) or "local"; OPQ's closed form, since rotations that
    alternate with the codebooks fit the few vectors of a cell too closely. iterations: of k-means.
    """

    cells: int = MISSING
    groups: int = MISSING
    size: int = 256
    rotation: Literal["none", "global", "local"] = "local"
    iterations: int = 10

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work with vectors of width `dim`."""
        if self.groups < 1 or dim % self.groups:
            raise ConfigError(f"{where}.groups: must divide the {dim} channels, got {self.groups}")
        for name, least in (("cells", 2), ("size", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")


class LOPQ(FittedQuantizer):
    """See `LOPQConfig`. The first code is the cell's, then come those of the groups."""

    centres: Tensor
    rotations: Tensor
    codebooks: Tensor

    def __init__(self, config: LOPQConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        super().__init__(dim, (config.cells, *[config.size] * config.groups))
        self.config = config
        self.subspaces = Subspaces(dim, config.groups)
        self.sizes = [config.size] * config.groups
        self.register_buffer("centres", torch.zeros(config.cells, dim))
        self.register_buffer("rotations", torch.eye(dim).repeat(config.cells, 1, 1))
        self.register_buffer("codebooks", torch.zeros(config.groups, config.size, self.subspaces.width))

    def into(self, h: Tensor, cells: Tensor) -> Tensor:
        """Sub-vectors [groups, n, width] of what vectors [n, dim] differ from the centres of their cells [n]."""
        return self.subspaces.split(self.rotate(h - self.centres[cells], cells, self.rotations))

    def rotate(self, vectors: Tensor, cells: Tensor, rotations: Tensor) -> Tensor:
        """Each vector [n, dim] times the rotation of its cell; a cell of -1 has none."""
        if self.config.rotation == "none":
            return vectors
        rotated = vectors.clone()
        for cell in torch.unique(cells[cells >= 0]).tolist():
            rows = cells == cell
            rotated[rows] = vectors[rows] @ rotations[cell]
        return rotated

    def assign(self, h: Tensor) -> Tensor:
        cells = nearest(h, self.centres)[0]
        return torch.cat([cells[:, None], nearest_codes(self.into(h, cells), self.codebooks, self.sizes)], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        cells = codes[:, 0]
        vectors = self.subspaces.join(take(self.codebooks, codes[:, 1:]))
        centres = torch.where(cells[:, None] >= 0, self.centres[cells.clamp(min=0)], 0.0)
        return centres + self.rotate(vectors, cells, self.rotations.transpose(1, 2))

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """By look-ups, in tables of each query and cell."""
        found = queries.new_empty(len(queries), len(codes))
        for cell in torch.unique(codes[:, 0]).tolist():
            parts = self.into(queries, torch.full((len(queries),), cell, device=queries.device))
            tables = self.codebooks.square().sum(2)[:, None] - 2 * parts @ self.codebooks.transpose(1, 2)
            rows = codes[:, 0] == cell
            lengths = parts.square().sum((0, 2))[:, None]
            found[:, rows] = lengths + sum_lookups(tables.transpose(0, 1), codes[rows, 1:])
        return found

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        centres = kmeans(x, self.config.cells, self.config.iterations)[0]
        self.centres[:] = centres[0]
        self.centres[: len(centres)] = centres
        cells = nearest(x, self.centres)[0]
        residuals = x - self.centres[cells]
        if self.config.rotation != "none":
            self.rotations[:] = eigenvalue_allocation(residuals, self.config.groups)
        if self.config.rotation == "local":
            for cell in torch.unique(cells).tolist():
                self.rotations[cell] = eigenvalue_allocation(residuals[cells == cell], self.config.groups)
        parts = self.into(x, cells)
        self.codebooks.copy_(start_codebooks(parts, self.sizes, self.config.size, self.config.iterations))
        codes = nearest_codes(parts, self.codebooks, self.sizes)
        error = float((parts - take(self.codebooks, codes)).double().square().sum()) / x.numel()
        report(1, 1, error)
        return [error]


CONFIG = LOPQConfig
QUANTIZER = LOPQ
