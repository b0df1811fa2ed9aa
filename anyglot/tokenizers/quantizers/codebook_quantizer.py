"""What quantizers with one codebook share: they wait until it has been started, and one code is one vector of it."""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.base import Quantized, Quantizer
from anyglot.tokenizers.quantizers.codebook import Codebook


class CodebookQuantizer(Quantizer):
    """Base of `vq` and `soft`. A family sets `codebook` and writes `assign` and `choose`."""

    codebook: Codebook

    def choose(self, h: Tensor, updating: bool) -> Quantized:
        """`select`, once the codebook has been started; moves it afterwards if `updating`."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        return bool(self.codebook.initialised)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.codebook.lookup(codes[:, 0])

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        updating = self.updating
        if updating and not self.ready:
            self.codebook.collect(h.detach())
            if not self.ready:  # still collecting: vectors pass as they are, without codes
                result = self.choose(h[:0], updating=False)
                result.vectors, result.codes = h.detach(), torch.full_like(h[:, :1], -1, dtype=torch.int64)
                return result
        return self.choose(h, updating)
