"""Residual quantization: each level quantizes what the levels before it left over (SoundStream, arXiv:2107.03312)."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.gradients import GRADIENTS, straight_through
from anyglot.tokenizers.quantizers.registry import build

LISTED = 2**16  # codes of a level that a beam may list


@dataclass
class ResidualConfig:
    """levels: how many. inner: config of the quantizer of each level, which is built anew for each.

    dropout: for this share of samples (first axis of the input) a training step uses only the first 1 .. levels
    levels, drawn for each, so that fewer levels decode too. width: of the residual vectors, 0 for that of the input.
    shared: one quantizer serves all levels (RQ-VAE, arXiv:2203.01941). gradient: how it passes the whole stack, see
    `gradients.py`. beam: paths kept while encoding in evaluation, 1 = greedy.
    """

    levels: int = MISSING
    inner: dict[str, Any] = MISSING
    dropout: float = 0.0
    width: int = 0
    shared: bool = False
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    beam: int = 1

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.levels < 1:
            raise ConfigError(f"{where}.levels: must be 1 or more, got {self.levels}")
        if not 0 <= self.dropout <= 1:
            raise ConfigError(f"{where}.dropout: a share of samples, 0 to 1, got {self.dropout}")
        if self.beam < 1:
            raise ConfigError(f"{where}.beam: must be 1 (greedy) or more, got {self.beam}")


class ResidualQuantizer(Quantizer):
    """A stack of quantizers; one code per level and vector, the sum of their vectors is the result.

    Residuals are taken from detached sums and one straight-through spans the stack. So the gradient passes to the
    input once, not once per level, and the commitment of every level reaches the input.
    """

    def __init__(self, config: ResidualConfig, dim: int, where: str) -> None:
        config.check(where)
        width = config.width or dim
        built = 1 if config.shared else config.levels
        stack = [build(config.inner, width, f"{where}.inner") for _ in range(built)]
        if len(stack[0].levels) != 1:
            raise ConfigError(f"{where}.inner: must give one code per vector; {config.inner['type']!r} gives a stack")
        if config.inner["type"] == "fsq" and config.inner.get("bound", "tanh") == "tanh" and not stack[0].projects:
            raise ConfigError(f"{where}.inner.bound: must be 'clamp' in a residual stack: levels cannot refine a tanh")
        if config.inner.get("gradient", "straight_through") != "straight_through":
            raise ConfigError(f"{where}.inner.gradient: one gradient spans the stack: set {where}.gradient instead")
        if stack[0].own_gradient:
            raise ConfigError(
                f"{where}.inner: {config.inner['type']!r} mixes or draws codes with a gradient of its own, to which "
                f"{config.gradient!r} of the stack would add a second; take 'sq_vae' with `levels`, or 'vq'"
            )
        size = stack[0].levels[0]
        if config.beam > 1 and size > LISTED:
            raise ConfigError(f"{where}.beam: lists all codes of a level, at most {LISTED}; {size} need `beam: 1`")
        if config.beam > 1 and (stack[0].projects or config.inner.get("metric") == "cosine"):
            raise ConfigError(
                f"{where}.beam: compares sums with the vectors themselves, which projected or cosine levels need not "
                "come near; use `beam: 1`, or an inner quantizer without `width` and `metric`"
            )
        super().__init__(dim, width, (size,) * config.levels, stack[0].weights)
        self.stack = nn.ModuleList(stack)
        self.dropout, self.shared, self.beam = config.dropout, config.shared, config.beam
        self._pass_gradient = GRADIENTS[config.gradient]

    def _levels(self) -> list[tuple[Quantizer, Tensor | float]]:
        """Each level with the size of its residual, at which quantizers without a codebook are applied."""
        levels = cast(list[Quantizer], list(self.stack) * (len(self.levels) if self.shared else 1))
        return [(level, 1.0 if level.projects else level.residual_scale**i) for i, level in enumerate(levels)]

    @property
    def ready(self) -> bool:
        return all(level.ready for level, _ in self._levels())

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return self._pass_gradient(h, vectors)

    def assign(self, h: Tensor) -> Tensor:
        codes, total = [], torch.zeros_like(h)
        for level, scale in self._levels():
            codes.append(level.encode_flat(_times(h - total, 1 / scale)))
            total = total + _times(level.decode_flat(codes[-1]), scale)
        greedy = torch.cat(codes, 1)
        return greedy if self.beam == 1 or self.training else self._nearer_of(h, greedy, total)

    @torch.no_grad()
    def _nearer_of(self, h: Tensor, greedy: Tensor, total: Tensor) -> Tensor:
        """The codes that a beam finds, where their sum is nearer to h than `total`, that of the greedy ones."""
        listed = torch.arange(self.levels[0], device=h.device)[:, None]
        books = torch.stack([_times(level.decode_flat(listed), scale) for level, scale in self._levels()])
        found = beam_encode(h, books, self.beam)
        nearer = (h - self.lookup(found)).square().sum(1) < (h - total).square().sum(1)
        return torch.where(nearer[:, None], found, greedy)

    def lookup(self, codes: Tensor) -> Tensor:
        total = torch.zeros(codes.shape[0], self.width, device=codes.device)
        for i, (level, scale) in enumerate(self._levels()):
            total = total + _times(level.decode_flat(codes[:, i : i + 1]), scale)
        return total

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        depth = self.draw_depth(sample)
        result = self._select_shared(h, sample, depth) if self.shared else self._select_each(h, sample, depth)
        if self.beam > 1 and not self.training:  # losses stay those of the greedy codes that training sees
            result.codes = self.assign(h.detach())
            result.vectors = self.lookup(result.codes)
            result.stats = self._stats(result.codes)
        return result

    def _select_each(self, h: Tensor, sample: Tensor, depth: Tensor) -> Quantized:
        """Level by level; a level's quantizer sees, and learns from, its own residuals."""
        codes = torch.full((h.shape[0], len(self.levels)), -1, device=h.device)
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

    def _select_shared(self, h: Tensor, sample: Tensor, depth: Tensor) -> Quantized:
        """First all residuals, then all levels as one batch: one choice, one loss, one update of the statistics."""
        level = cast(Quantizer, self.stack[0])
        # A codebook that is still collecting leaves nothing over that a next level could learn from.
        count = len(self.levels) if level.ready or not level.updating else 1
        rows = [(depth > i).nonzero()[:, 0] for i in range(count)]
        scales = [scale for _, scale in self._levels()]
        residuals, total = [], torch.zeros_like(h)
        for used, scale in zip(rows, scales[:count], strict=True):
            residuals.append(_times(h[used] - total[used], 1 / scale))
            with torch.no_grad():
                vectors = level.decode_flat(level.encode_flat(residuals[-1].detach()))
                total[used] += _times(vectors, scale)
        # Vector by vector, so that ranks joined in order hold what one process would: resets draw from that.
        vector = torch.cat(rows)
        order = vector.argsort(stable=True)
        vector, depth_of = (
            vector[order],
            torch.arange(count, device=h.device).repeat_interleave(
                torch.tensor([len(used) for used in rows], device=h.device)
            )[order],
        )
        residual = torch.cat(residuals)[order]
        result = level.select(level.bound(level.project_in(residual)), sample[vector])
        vectors = self._contribution(level, residual.detach(), result.vectors)
        codes = torch.full((h.shape[0], len(self.levels)), -1, device=h.device)
        codes[vector, depth_of] = result.codes[:, 0]
        total = torch.zeros_like(h)
        for i, scale in enumerate(scales[:count]):
            now = depth_of == i
            total = total.index_add(0, vector[now], _times(vectors[now], scale))
        return Quantized(total, codes, result.losses, self._stats(codes))

    def _stats(self, codes: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for i, size in enumerate(self.levels):
            level = code_stats(count_codes(codes[codes[:, i] >= 0, i], size), size)
            found |= {f"{name}_{i}": value for name, value in level.items()}
        for name in ("usage", "perplexity"):
            found[name] = torch.stack([found[f"{name}_{i}"] for i in range(len(self.levels))]).mean()
        return found

    def draw_depth(self, sample: Tensor) -> Tensor:
        """How many levels each vector uses, int64 [n]: equal within a sample, all of them outside training."""
        count = len(self.levels)
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
