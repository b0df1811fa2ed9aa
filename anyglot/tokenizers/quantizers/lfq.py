"""Lookup-free quantization: every channel becomes a bit (MAGVIT-v2, Yu et al., arXiv:2310.05737)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.entropy import MAX_BITS, batch_entropy, code_entropy


@dataclass
class LFQConfig:
    """bits: channels, so 2^bits codes; a projection leads there and back where the vectors have another width.

    commitment: weight of |z - sg(q)|^2. entropy: weight of the mean entropy of each vector's soft assignment less
    diversity times the entropy of the mean assignment; 0 does not compute it, and few codes get used. temperature:
    of the soft assignment softmax(-|z - c|^2 / temperature); published recipes say 0.01, which reaches only vectors
    next to a boundary and learns slower (docs/results/quantizer_defaults.md). groups: into how many groups of at most
    24 bits the entropy of the mean assignment is cut; 1 is exact, more an upper bound that adds the groups' entropies.
    """

    bits: int
    commitment: float = 0.25
    entropy: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.3
    groups: int = 1


class LookupFreeQuantizer(Quantizer):
    """Code vectors in {-size, size}^bits. Bit i of the code, counted from the lowest, is z_i > 0."""

    places: Tensor

    def __init__(self, config: LFQConfig, dim: int, where: str, size: float = 1.0) -> None:
        if not 1 <= config.bits <= 62:
            raise ConfigError(f"{where}.bits: 1 to 62, got {config.bits}")
        if not 1 <= config.groups <= config.bits:
            raise ConfigError(f"{where}.groups: 1 (exact) to {config.bits} (one per bit), got {config.groups}")
        if config.entropy > 0 and config.bits > MAX_BITS * config.groups:
            raise ConfigError(
                f"{where}.groups: the entropy is exact up to {MAX_BITS} bits; for {config.bits} set groups to "
                f"{-(-config.bits // MAX_BITS)} or more (an upper bound), or entropy to 0"
            )
        if config.temperature <= 0:
            raise ConfigError(f"{where}.temperature: must be above 0, got {config.temperature}")
        if min(config.commitment, config.entropy, config.diversity) < 0:
            raise ConfigError(f"{where}: commitment, entropy and diversity must be 0 or more")
        super().__init__(
            dim, config.bits, (2**config.bits,), {"commitment": config.commitment, "entropy": config.entropy}
        )
        self.size, self.diversity, self.temperature = size, config.diversity, config.temperature
        self.groups = config.groups
        self.register_buffer("places", torch.arange(config.bits), persistent=False)

    @property
    def residual_scale(self) -> float:
        return 0.5

    def assign(self, h: Tensor) -> Tensor:
        return ((h > 0).to(torch.int64) << self.places).sum(1, keepdim=True)

    def lookup(self, codes: Tensor) -> Tensor:
        return (((codes >> self.places) & 1).float() * 2 - 1) * self.size

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        codes = self.assign(h.detach())
        vectors = self.lookup(codes)
        count = mean_count(h.shape[0], h.device, self.updating)
        losses = {"commitment": F.mse_loss(h, vectors, reduction="sum") / (count * self.width)}
        if self.weights["entropy"] > 0:
            logits = h * (4 * self.size / self.temperature)  # |h + s|^2 - |h - s|^2 = 4 s h
            spread = batch_entropy(logits, self.groups, count, self.updating)
            losses["entropy"] = code_entropy(logits).sum() / count - self.diversity * spread
        stats = code_stats(count_codes(codes, self.levels[0]), self.levels[0])
        return Quantized(vectors, codes, losses, stats)


CONFIG = LFQConfig
QUANTIZER = LookupFreeQuantizer
