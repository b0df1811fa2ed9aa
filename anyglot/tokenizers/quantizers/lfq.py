"""Lookup-free quantization: every channel becomes a bit (MAGVIT-v2, Yu et al., arXiv:2310.05737)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.entropy import MAX_BITS, code_entropy, entropy, mean_assignment


@dataclass
class LFQConfig:
    """bits: channels, so 2^bits codes; a projection leads there and back where the vectors have another width.

    commitment: weight of |z - sg(q)|^2. entropy: weight of the mean entropy of each vector's soft assignment less
    diversity times the entropy of the mean assignment; 0 does not compute it, and few codes get used. temperature:
    of the soft assignment softmax(-|z - c|^2 / temperature); published recipes say 0.01, which reaches only vectors
    next to a boundary and learns slower (docs/results/quantizer_defaults.md).
    """

    bits: int
    commitment: float = 0.25
    entropy: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.3


class LookupFreeQuantizer(Quantizer):
    """Code vectors in {-1, 1}^bits. Bit i of the code, counted from the lowest, is z_i > 0."""

    places: Tensor

    def __init__(self, config: LFQConfig, dim: int, where: str) -> None:
        if not 1 <= config.bits <= 62:
            raise ConfigError(f"{where}.bits: 1 to 62, got {config.bits}")
        if config.entropy > 0 and config.bits > MAX_BITS:
            raise ConfigError(f"{where}.entropy: exact up to {MAX_BITS} bits, got {config.bits}; set it to 0 beyond")
        if config.temperature <= 0:
            raise ConfigError(f"{where}.temperature: must be above 0, got {config.temperature}")
        super().__init__(
            dim, config.bits, (2**config.bits,), {"commitment": config.commitment, "entropy": config.entropy}
        )
        self.diversity, self.temperature = config.diversity, config.temperature
        self.register_buffer("places", torch.arange(config.bits), persistent=False)

    @property
    def residual_scale(self) -> float:
        return 0.5

    def assign(self, h: Tensor) -> Tensor:
        return ((h > 0).to(torch.int64) << self.places).sum(1, keepdim=True)

    def lookup(self, codes: Tensor) -> Tensor:
        return ((codes >> self.places) & 1).float() * 2 - 1

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        codes = self.assign(h.detach())
        vectors = self.lookup(codes)
        count = mean_count(h.shape[0], h.device, self.updating)
        losses = {"commitment": F.mse_loss(h, vectors, reduction="sum") / (count * self.width)}
        if self.weights["entropy"] > 0:
            logits = h * (4 / self.temperature)  # |h + 1|^2 - |h - 1|^2 = 4 h
            spread = entropy(mean_assignment(logits, count, self.updating))
            losses["entropy"] = code_entropy(logits).sum() / count - self.diversity * spread
        stats = code_stats(count_codes(codes, self.levels[0]), self.levels[0])
        return Quantized(vectors, codes, losses, stats)


CONFIG = LFQConfig
QUANTIZER = LookupFreeQuantizer
