"""Binary spherical quantization: bits of a vector on the unit sphere (Zhao et al., arXiv:2406.07548)."""

from dataclasses import dataclass

from torch import Tensor

from anyglot.tokenizers.quantizers.lfq import LFQConfig, LookupFreeQuantizer

TINY = 1e-6


@dataclass
class BSQConfig(LFQConfig):
    """Fields as of LFQ. Lengths are 1 here, and a channel is about 1 / sqrt(bits): hence another temperature, on the
    same scale softmax(-|u - c|^2 / temperature)."""

    temperature: float = 0.05


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """Unit vectors u to the corners {-1, 1}^bits / sqrt(bits): never farther than sqrt(2 - 2 / sqrt(bits)) away.

    One rule, u_i > 0, gives code vector and bit i, counted from the lowest.
    """

    def __init__(self, config: BSQConfig, dim: int, where: str) -> None:
        super().__init__(config, dim, where, size=config.bits**-0.5)

    def bound(self, h: Tensor) -> Tensor:
        """Map to unit length. Vectors shorter than 1e-6 stay below it: their direction is noise, its gradient huge."""
        scale = h.detach().abs().amax(-1, keepdim=True).clamp(min=TINY)  # squares neither overflow nor vanish
        scaled = h / scale
        length: Tensor = scaled.norm(dim=-1, keepdim=True).clamp(min=1)
        return scaled / length


CONFIG = BSQConfig
QUANTIZER = BinarySphericalQuantizer
