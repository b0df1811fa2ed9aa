"""FSQ, LFQ and BSQ: quantizers without a codebook."""

from collections.abc import Callable
from typing import Any

import torch


def test_fsq(train_recipe: Callable[..., Any]) -> None:
    """Codes stay in range for inputs of any size, in every precision; the codebook is used without any help."""
    trained = train_recipe("fsq")
    quantizer = trained.quantizer
    for scale in (1.0, 1e3, 1e30):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            z = torch.randn(4096, 4, generator=torch.Generator().manual_seed(0)) * scale
            z = z.clamp(-6e4, 6e4).to(dtype)
            codes = quantizer.encode(z)
            assert 0 <= int(codes.min()) <= int(codes.max()) < 1000
    assert trained.measured.health[0].usage > 0.9
    assert not quantizer(z.float()).losses
