"""Differentiable product quantization of embeddings, the softmax variant (DPQ-SX: Chen et al. 2020, arXiv:1908.09756).

A vector chooses the key with the largest product, and becomes that key's value; gradients pass through the softmax of
all products. Each group of channels does so on its own: `{type: product, groups: 8, inner: {type: dpq, size: 16}}`. The
centroid variant, DPQ-VQ, is `vq` with a learned codebook as the inner quantizer.
"""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats

START = 0.1  # deviation of keys and values: they grow sooner than they shrink


@dataclass
class DPQConfig:
    """size: of keys and values; every forward makes a softmax over them, so up to some thousand.

    tied: values are the keys. temperature: of the softmax that gradients pass through, relative to the deviation of a
    vector's products, so that it suits vectors of any size. width: of keys and values, 0 for that of the vectors; else
    projections lead there and back.
    """

    size: int = MISSING
    tied: bool = False
    temperature: float = 0.5
    width: int = 0


class DPQ(Quantizer):
    """Keys to choose by, values to become. See `DPQConfig`."""

    own_gradient = True

    def __init__(self, config: DPQConfig, dim: int, where: str) -> None:
        if config.size < 2:
            raise ConfigError(f"{where}.size: needs at least 2 codes, got {config.size}")
        if config.temperature <= 0:
            raise ConfigError(f"{where}.temperature: must be above 0, got {config.temperature}")
        if config.width < 0:
            raise ConfigError(f"{where}.width: must be 0 (that of the vectors) or more, got {config.width}")
        super().__init__(dim, config.width or dim, (config.size,), {})
        self.temperature = config.temperature
        self.keys = nn.Parameter(torch.randn(config.size, self.width) * START)
        self.values = None if config.tied else nn.Parameter(self.keys.detach().clone())  # None: the keys themselves

    def logits(self, h: Tensor) -> Tensor:
        return h @ self.keys.float().t()

    def assign(self, h: Tensor) -> Tensor:
        return self.logits(h).argmax(1, keepdim=True)

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.keys if self.values is None else self.values).float()

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        logits = self.logits(h)
        codes = logits.argmax(1, keepdim=True)
        spread = logits.detach().std(1, keepdim=True).clamp(min=1e-12) * self.temperature
        values = self.keys if self.values is None else self.values
        soft = (logits / spread).softmax(1) @ values.detach().float()
        vectors = self.lookup(codes) + (soft - soft.detach())  # exactly the value, with the softmax's gradient
        counts = torch.bincount(codes[:, 0], minlength=self.levels[0])
        return Quantized(vectors, codes, {}, code_stats(counts, self.levels[0]))

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return vectors  # the softmax has passed it


CONFIG = DPQConfig
QUANTIZER = DPQ
