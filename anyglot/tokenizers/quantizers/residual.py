"""Residual quantization: each level quantizes what the levels before it left over (SoundStream, arXiv:2107.03312)."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, straight_through
from anyglot.tokenizers.quantizers.registry import build


@dataclass
class ResidualConfig:
    """levels: how many. inner: config of the quantizer of each level, which is built anew for each.

    dropout: for this share of samples (first axis of the input) a training step uses only the first 1 .. levels
    levels, drawn for each, so that fewer levels decode too. width: of the residual vectors, 0 for that of the input.
    """

    levels: int = MISSING
    inner: dict[str, Any] = MISSING
    dropout: float = 0.0
    width: int = 0


class ResidualQuantizer(Quantizer):
    """A stack of quantizers; one code per level and vector, the sum of their vectors is the result.

    Residuals are taken from detached sums and one straight-through spans the stack. So the gradient passes to the
    input once, not once per level, and the commitment of every level reaches the input.
    """

    def __init__(self, config: ResidualConfig, dim: int, where: str) -> None:
        if config.levels < 1:
            raise ConfigError(f"{where}.levels: must be 1 or more, got {config.levels}")
        if not 0 <= config.dropout <= 1:
            raise ConfigError(f"{where}.dropout: a share of samples, 0 to 1, got {config.dropout}")
        width = config.width or dim
        stack = [build(config.inner, width, f"{where}.inner") for _ in range(config.levels)]
        if len(stack[0].levels) != 1:
            raise ConfigError(f"{where}.inner: must give one code per vector; {config.inner['type']!r} gives a stack")
        if config.inner["type"] == "fsq" and config.inner.get("bound", "tanh") == "tanh" and not stack[0].projects:
            raise ConfigError(f"{where}.inner.bound: must be 'clamp' in a residual stack: levels cannot refine a tanh")
        super().__init__(dim, width, tuple(level.levels[0] for level in stack), stack[0].weights)
        self.stack = nn.ModuleList(stack)
        self.dropout = config.dropout

    def _levels(self) -> list[tuple[Quantizer, Tensor | float]]:
        """Each level with the size of its residual, at which quantizers without a codebook are applied."""
        levels = cast(list[Quantizer], list(self.stack))
        return [(level, 1.0 if level.projects else level.residual_scale**i) for i, level in enumerate(levels)]

    @property
    def ready(self) -> bool:
        return all(level.ready for level, _ in self._levels())

    def assign(self, h: Tensor) -> Tensor:
        codes, total = [], torch.zeros_like(h)
        for level, scale in self._levels():
            codes.append(level.encode_flat(_times(h - total, 1 / scale)))
            total = total + _times(level.decode_flat(codes[-1]), scale)
        return torch.cat(codes, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        total = torch.zeros(codes.shape[0], self.width, device=codes.device)
        for i, (level, scale) in enumerate(self._levels()):
            total = total + _times(level.decode_flat(codes[:, i : i + 1]), scale)
        return total

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        depth = self.draw_depth(sample)
        codes = torch.full((h.shape[0], len(self.stack)), -1, device=h.device)
        total = torch.zeros_like(h)
        losses: dict[str, list[Tensor]] = {}
        stats: dict[str, Tensor] = {}
        before_is_ready = True
        for i, (level, scale) in enumerate(self._levels()):
            # A level waits for the codebook before it, which decides what is left over. Levels without any vectors
            # run all the same: every parameter stays in the graph, as DistributedDataParallel demands.
            used = (depth > i) & before_is_ready
            rows = slice(None) if bool(used.all()) else used.nonzero()[:, 0]
            residual = _times(h[rows] - total[rows].detach(), 1 / scale)
            result = level.select(level.bound(level.project_in(residual)), sample[rows])
            before_is_ready = before_is_ready and (level.ready or not level.updating)
            vectors = _times(self._contribution(level, residual.detach(), result.vectors), scale)
            total = total + (vectors if isinstance(rows, slice) else torch.zeros_like(h).index_put((rows,), vectors))
            codes[rows, i] = result.codes[:, 0]
            for name, value in result.losses.items():
                losses.setdefault(name, []).append(value)
            stats |= {f"{name}_{i}": value for name, value in result.stats.items()}
        for name in ("usage", "perplexity"):
            stats[name] = torch.stack([stats[f"{name}_{i}"] for i in range(len(self.stack))]).mean()
        return Quantized(total, codes, {name: torch.stack(values).mean() for name, values in losses.items()}, stats)

    def draw_depth(self, sample: Tensor) -> Tensor:
        """How many levels each vector uses, int64 [n]: equal within a sample, all of them outside training."""
        count = len(self.stack)
        if not (self.training and self.dropout > 0) or sample.numel() == 0:
            return torch.full_like(sample, count)
        samples = int(sample.max()) + 1
        depth = torch.randint(1, count + 1, (samples,), device=sample.device)
        full = torch.rand(samples, device=sample.device) >= self.dropout
        return torch.where(full, count, depth)[sample]

    def _contribution(self, level: Quantizer, residual: Tensor, vectors: Tensor) -> Tensor:
        """A level's vectors [n, width], with gradients to its projections but none to the residual."""
        if not level.projects:
            return vectors
        return level.project_out(straight_through(level.bound(level.project_in(residual)), vectors))


def _times(vectors: Tensor, factor: Tensor | float) -> Tensor:
    """Scaled vectors; learned codebooks have factor 1 and are spared the copy."""
    return vectors if isinstance(factor, float) and factor == 1 else vectors * factor


CONFIG = ResidualConfig
QUANTIZER = ResidualQuantizer
