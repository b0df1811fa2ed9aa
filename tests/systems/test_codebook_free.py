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


def test_lfq(train_recipe: Callable[..., Any]) -> None:
    """The code is the binary number of the signs; its entropy term keeps codes in use, and lowers the error too."""
    spread, free = train_recipe("lfq"), train_recipe("lfq", "quantizer.entropy=0")
    z = spread.model.encoder(spread.vectors.heldout[:500])
    codes = spread.quantizer.encode(z)[:, 0].tolist()
    assert codes == [sum(2**i for i, value in enumerate(row) if value > 0) for row in z.tolist()]
    used, unspread = spread.measured.health[0], free.measured.health[0]
    assert used.usage > 0.93
    assert unspread.usage < 0.75
    assert used.perplexity > 2 * unspread.perplexity
    assert spread.measured.relative_error < free.measured.relative_error


def test_bsq(train_recipe: Callable[..., Any]) -> None:
    """The bound on real vectors, after training; and 36 bits against 18."""
    trained = train_recipe("bsq")
    fewer = train_recipe("bsq", "quantizer.bits=18", "quantizer.groups=1", "autoencoder.width=18")
    for model, bits in ((trained, 36), (fewer, 18)):
        u = model.quantizer.bound(model.model.encoder(model.vectors.heldout))
        torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u)))
        error = (u - model.quantizer.lookup(model.quantizer.assign(u))).norm(dim=1)
        assert error.max() < (2 - 2 / bits**0.5) ** 0.5
        assert model.quantizer.encode(u).max() < 2**bits
    assert trained.measured.relative_error < 0.9 * fewer.measured.relative_error
