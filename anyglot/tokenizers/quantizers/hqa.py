"""Hierarchical quantized autoencoders: a stack that keeps only its top codes (HQA, Williams et al., arXiv:2002.08111).

The lowest layer quantizes the vectors, every further one compresses the latents of the layer below into fewer pieces,
and learns to give them back. A code of the top is decoded downwards: the layer below gets its latents, and takes its
own nearest codes of them, so that every layer's decoder is given codes that it knows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Projection, Quantized, Quantizer, code_stats
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.gradients import straight_through
from anyglot.tokenizers.quantizers.soft_assignment import by_rows, gumbel_noise, similarities
from anyglot.tokenizers.quantizers.vq import VectorQuantizer, VQConfig


@dataclass
class HQAConfig:
    """cells: into how many pieces each layer cuts its latents, bottom to top, e.g. [4, 2, 1]; pieces are all as wide as
    those of the bottom, so its number divides the width of the vectors. size: codes of each layer. hidden: width of the
    hidden layer between one layer's latents and the next one's.

    temperature: t of the assignment softmax(-|z - c|^2 / t) that training draws codes from, relative to the variance of
    the codebook. commitment: weight of the mean of |z - c|^2 under that assignment, less t times its entropy.
    reset_below: a code used less than this share of the mean goes next to one in frequent use; 0 never.
    """

    cells: list[int] = field(default_factory=list)
    size: int = 256
    hidden: int = 64
    temperature: float = 0.01
    commitment: float = 0.25
    kmeans_init: bool = True
    reset_below: float = 0.2

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work on vectors of width `dim`."""
        if not self.cells or min(self.cells) < 1 or self.cells != sorted(self.cells, reverse=True):
            raise ConfigError(
                f"{where}.cells: pieces of each layer, never more than of the one below, got {self.cells}"
            )
        if dim % self.cells[0]:
            raise ConfigError(f"{where}.cells: {self.cells[0]} pieces do not divide vectors of width {dim}")
        if self.hidden < 1:
            raise ConfigError(f"{where}.hidden: must be 1 or more, got {self.hidden}")
        if self.temperature <= 0:
            raise ConfigError(f"{where}.temperature: must be above 0, got {self.temperature}")


class SampledQuantizer(VectorQuantizer):
    """A codebook from which training draws by softmax(-|z - c|^2 / t); evaluation takes the nearest code.

    The gradient to the vectors is that of the Gumbel-softmax (Jang et al. 2017, arXiv:1611.01144).
    """

    def __init__(self, config: VQConfig, dim: int, temperature: float, where: str) -> None:
        super().__init__(config, dim, where)
        self.temperature = temperature

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        drawn = self.training and self.ready  # those carry their gradient themselves
        return vectors if drawn else straight_through(h, vectors)

    def choose(self, h: Tensor, updating: bool) -> Quantized:
        codebook = self.codebook.vectors()
        temperature = self.temperature * codebook.detach().var(0).sum().clamp(min=1e-12)

        def draw(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Vectors and codes of rows, and the sum of the commitment: E|z - c|^2 - t H = -t log sum exp."""
            logits = similarities(rows, codebook, "distance") / temperature
            free_energy = -temperature * torch.logsumexp(logits, 1).sum()
            if not self.training:
                codes = self.assign(rows)[:, 0]
                return self.codebook.lookup(codes).detach(), codes, free_energy
            soft = torch.softmax(logits + gumbel_noise(torch.rand_like(logits)), 1)
            codes = soft.argmax(1)
            return straight_through(soft @ codebook, codebook[codes]), codes, free_energy

        parts = list(by_rows(draw, h, self.codebook.size))
        vectors, codes = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        elements = mean_count(h.shape[0], h.device, updating) * self.width
        losses = {"commitment": torch.stack([part[2] for part in parts]).sum() / elements}
        if updating:
            counts = self.codebook.update(h.detach(), codes)
        else:
            counts = torch.bincount(codes, minlength=self.codebook.size)
        return Quantized(vectors, codes[:, None], losses, code_stats(counts, self.codebook.size))


class HierarchicalAutoencoder(Quantizer):
    """Codes [n, pieces of the top]. In training the vectors are those of the bottom layer's own codes, which the
    decoder behind it learns to read; every layer above learns to give back the latents of the one below, detached."""

    own_gradient = True

    def __init__(self, config: HQAConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        weights = {"commitment": config.commitment, "latents": 1.0}
        super().__init__(dim, dim, (config.size,) * config.cells[-1], weights)
        self.piece = dim // config.cells[0]
        inner = VQConfig(
            config.size,
            commitment=config.commitment,
            kmeans_init=config.kmeans_init,
            reset="split" if config.reset_below > 0 else "vector",
            reset_below=config.reset_below,
        )
        self.layers = nn.ModuleList(
            SampledQuantizer(inner, self.piece, config.temperature, where) for _ in config.cells
        )
        widths = [cells * self.piece for cells in config.cells]
        pairs = list(pairwise(widths))
        self.compress = nn.ModuleList(_perceptron(low, config.hidden, high) for low, high in pairs)
        self.expand = nn.ModuleList(_perceptron(high, config.hidden, low) for low, high in pairs)

    @property
    def ready(self) -> bool:
        return all(layer.ready for layer in self._layers())

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return vectors if self.training else straight_through(h, vectors)

    def assign(self, h: Tensor) -> Tensor:
        for compress in self.compress:
            h = compress(h)
        return self._layers()[-1].encode_flat(self._pieces(h)).view(len(h), len(self.levels))

    def lookup(self, codes: Tensor) -> Tensor:
        *below, top = self._layers()
        latents = top.decode_flat(codes.reshape(-1, 1)).view(len(codes), -1)
        for layer, expand in zip(
            reversed(below), reversed(cast(list[Callable[..., Tensor]], list(self.expand))), strict=True
        ):
            pieces = self._pieces(expand(latents))
            latents = layer.decode_flat(layer.encode_flat(pieces)).view(len(codes), -1)
        return latents

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        count = mean_count(h.shape[0], h.device, self.updating)
        commitments: list[Tensor] = []
        stats: dict[str, Tensor] = {}
        latents = h.new_zeros(())
        vectors, below = h, h
        for i, layer in enumerate(self._layers()):
            z = below if i == 0 else self.compress[i - 1](below.detach())
            result = layer.quantize(self._pieces(z), sample.repeat_interleave(z.shape[1] // self.piece))
            commitments.append(result.losses["commitment"])
            if i == 0:
                vectors = result.vectors.view(h.shape)
            else:
                expanded = self.expand[i - 1](result.vectors.view(z.shape))
                error = F.mse_loss(expanded, below.detach(), reduction="sum") / (count * below.shape[1])
                latents = latents + error
            stats |= {f"{name}_{i}": value for name, value in result.stats.items()}
            below = z
        codes = result.codes.view(len(h), len(self.levels))
        if not self.training:
            codes = self.assign(h)
            vectors = self.lookup(codes)
        for name in ("usage", "perplexity"):
            stats[name] = torch.stack([stats[f"{name}_{i}"] for i in range(len(self.layers))]).mean()
        losses = {"commitment": torch.stack(commitments).mean(), "latents": latents}
        return Quantized(vectors, codes, losses, stats)

    def _layers(self) -> list[SampledQuantizer]:
        return cast(list[SampledQuantizer], list(self.layers))

    def _pieces(self, latents: Tensor) -> Tensor:
        return latents.reshape(-1, self.piece)


def _perceptron(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(Projection(width, hidden), nn.SiLU(), Projection(hidden, out))


CONFIG = HQAConfig
QUANTIZER = HierarchicalAutoencoder
