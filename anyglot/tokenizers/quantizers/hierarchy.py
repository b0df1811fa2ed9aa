"""Quantization at several resolutions, coarse to fine, each given the coarser ones (VQ-VAE-2, arXiv:1906.00446).

A vector [dim] is a block of cells: the coarsest resolution may see it whole, the next as 4 pieces [dim / 4], and so on,
with one code a piece. So the features of the fine grid lie side by side in the vectors of the coarse one, and a
picture's codes are [rows, columns, 1 + 4] for a top grid and a bottom grid of twice its sides.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Projection, Quantized, Quantizer
from anyglot.tokenizers.quantizers.registry import build


@dataclass
class HierarchyConfig:
    """cells: into how many pieces each resolution cuts a vector, coarse to fine, e.g. [1, 4]; each number divides the
    next, and the last one the width of the vectors. inner: config of each resolution's quantizer, of one code; all
    pieces of a resolution share it, as a convolution would."""

    cells: list[int] = MISSING
    inner: list[dict[str, Any]] = MISSING

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work on vectors of width `dim`."""
        if not self.cells or min(self.cells) < 1 or len(self.cells) != len(self.inner):
            raise ConfigError(
                f"{where}.cells: one number of pieces for each quantizer of inner, got {self.cells} for "
                f"{len(self.inner)}"
            )
        for coarse, fine in zip(self.cells, [*self.cells[1:], dim], strict=True):
            if fine % coarse:
                raise ConfigError(
                    f"{where}.cells: {coarse} does not divide {fine}; each number must divide the next, the last one "
                    f"the width of the vectors, {dim}"
                )


class Condition(nn.Module):
    """What a finer resolution encodes: a linear map of a piece and of its coarser reconstruction. And the way back.

    They start as difference and sum, which is residual quantization.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ahead, self.back = Projection(2 * width, width), Projection(2 * width, width)
        eye = torch.eye(width)
        for layer, sign in ((self.ahead, -1), (self.back, 1)):
            layer.weight.data.copy_(torch.cat([eye, sign * eye], 1))
            layer.bias.data.zero_()


class HierarchicalQuantizer(Quantizer):
    """Codes [n, cells of all resolutions], coarse to fine; the coarse ones alone decode to a coarse version.

    As in a residual stack, every resolution quantizes detached sums and one straight-through spans them all: the
    gradient passes to the input once, and every commitment reaches it.
    """

    def __init__(self, config: HierarchyConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        stack = [
            build(mapping, dim // cells, f"{where}.inner.{i}")
            for i, (cells, mapping) in enumerate(zip(config.cells, config.inner, strict=True))
        ]
        for i, level in enumerate(stack):
            if len(level.levels) != 1:
                raise ConfigError(f"{where}.inner.{i}: must give one code per piece, gives {len(level.levels)}")
            if level.own_gradient:
                raise ConfigError(f"{where}.inner.{i}: mixes or draws codes with a gradient of its own; take 'vq'")
        if any(level.weights != stack[0].weights for level in stack):
            raise ConfigError(f"{where}.inner: all resolutions must weigh their losses alike")
        levels = tuple(level.levels[0] for level, cells in zip(stack, config.cells, strict=True) for _ in range(cells))
        super().__init__(dim, dim, levels, stack[0].weights)
        self.cells = config.cells
        self.stack = nn.ModuleList(stack)
        self.conditions = nn.ModuleList(Condition(dim // cells) for cells in config.cells[1:])

    @property
    def ready(self) -> bool:
        return all(level.ready for level in self._resolutions())

    def assign(self, h: Tensor) -> Tensor:
        found: list[Tensor] = []
        total = torch.zeros_like(h)
        for i, level in enumerate(self._resolutions()):
            codes = level.encode_flat(self._ahead(i, h, total))
            total = self._back(i, total, level.decode_flat(codes))
            found.append(codes.view(len(h), self.cells[i]))
        return torch.cat(found, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        total = torch.zeros(len(codes), self.width, device=codes.device)
        for i, (level, part) in enumerate(zip(self._resolutions(), torch.split(codes, self.cells, 1), strict=True)):
            flat = part.reshape(-1, 1)
            finer = self._back(i, total, level.decode_flat(flat))
            # A piece without a code stays as the coarser resolutions left it.
            total = torch.where((flat >= 0).expand(-1, self.dim // self.cells[i]).reshape(total.shape), finer, total)
        return total

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        total = torch.zeros_like(h)
        found: list[Tensor] = []
        losses: dict[str, list[Tensor]] = {}
        stats: dict[str, Tensor] = {}
        for i, level in enumerate(self._resolutions()):
            # A resolution waits for the codebook of the coarser one, which decides what it is given; without any
            # vectors it runs all the same, so that every parameter stays in the graph.
            rows = (
                slice(None) if not level.updating or all(ready.ready for ready in self._resolutions()[:i]) else slice(0)
            )
            pieces = self._ahead(i, h, total.detach())[rows]
            result = level.select(level.bound(level.project_in(pieces)), sample.repeat_interleave(self.cells[i])[rows])
            # The same pieces with gradients to the maps alone.
            inside = level.bound(level.project_in(self._ahead(i, h.detach(), total)[rows]))
            vectors = level.project_out(level.pass_gradient(inside, result.vectors))
            codes = torch.full((len(h) * self.cells[i], 1), -1, device=h.device)
            codes[rows] = result.codes
            found.append(codes.view(len(h), self.cells[i]))
            if rows == slice(None):
                total = self._back(i, total, vectors)
            else:
                total = total + 0 * self._back(i, total[:0], vectors).sum()
            for name, value in result.losses.items():
                losses.setdefault(name, []).append(value)
            stats |= {f"{name}_{i}": value for name, value in result.stats.items()}
        for name in ("usage", "perplexity"):
            stats[name] = torch.stack([stats[f"{name}_{i}"] for i in range(len(self.cells))]).mean()
        means = {name: torch.stack(values).mean() for name, values in losses.items()}
        return Quantized(total, torch.cat(found, 1), means, stats)

    def _resolutions(self) -> list[Quantizer]:
        return cast(list[Quantizer], list(self.stack))

    def _ahead(self, i: int, h: Tensor, total: Tensor) -> Tensor:
        """What resolution i encodes, [n * cells, dim / cells]."""
        pieces = h.reshape(-1, self.dim // self.cells[i])
        if i == 0:
            return pieces
        condition = cast(Condition, self.conditions[i - 1])
        ahead: Tensor = condition.ahead(torch.cat([pieces, total.reshape(pieces.shape)], 1))
        return ahead

    def _back(self, i: int, total: Tensor, pieces: Tensor) -> Tensor:
        """The reconstruction [n, dim] by resolutions 0 .. i."""
        if i:
            condition = cast(Condition, self.conditions[i - 1])
            pieces = condition.back(torch.cat([total.reshape(pieces.shape), pieces], 1))
        return pieces.reshape(total.shape)


CONFIG = HierarchyConfig
QUANTIZER = HierarchicalQuantizer
