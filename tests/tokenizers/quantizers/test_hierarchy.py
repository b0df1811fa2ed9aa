import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import Quantizer, build

VQ = {"type": "vq", "size": 8, "kmeans_init": False, "reset_below": 0.0}


def hierarchy(cells: list[int], dim: int, **options: object) -> Quantizer:
    return build({"type": "hierarchy", "cells": cells, "inner": [{**VQ, **options} for _ in cells]}, dim)


def test_starts_as_residual_quantization_of_pieces() -> None:
    """Slow twin: what the coarse code leaves over, cut into pieces, each to its nearest code."""
    quantizer = hierarchy([1, 4], 8).eval()
    top, bottom = (level.codebook.vectors() for level in quantizer.stack)
    z = torch.randn(30, 8)
    result = quantizer(z)
    for vector, codes, quantized in zip(z, result.codes, result.vectors, strict=True):
        k = int((top - vector).square().sum(1).argmin())
        left = (vector - top[k]).view(4, 2)
        fine = [int((bottom - piece).square().sum(1).argmin()) for piece in left]
        assert codes.tolist() == [k, *fine]
        torch.testing.assert_close(quantized, top[k] + bottom[fine].flatten())


def test_finer_codes_are_chosen_given_the_coarse_ones() -> None:
    """Another top codebook, other bottom codes: the bottom is conditioned, not independent."""
    quantizer = hierarchy([1, 4], 8).eval()
    z = torch.randn(200, 8)
    before = quantizer.encode(z)
    quantizer.stack[0].codebook.weight.data.mul_(-1)
    assert (quantizer.encode(z)[:, 1:] != before[:, 1:]).any(1).float().mean() > 0.5


def test_more_resolutions_are_never_worse() -> None:
    """After training in place: each further resolution of the same codes lowers the error of every batch."""
    quantizer = hierarchy([1, 2, 4], 8, kmeans_init=True)
    for step in range(30):
        quantizer(torch.randn(64, 8, generator=torch.Generator().manual_seed(step)).requires_grad_())
    z = torch.randn(2000, 8)
    codes = quantizer.eval().encode(z)
    errors = []
    for kept in (0, 1, 3, 7):
        some = torch.where(torch.arange(7) < kept, codes, -1)
        errors.append(float((quantizer.decode(some) - z).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 4


def test_a_piece_without_a_code_stays_as_the_coarse_level_left_it() -> None:
    quantizer = hierarchy([1, 4], 8).eval()
    for parameter in quantizer.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # the maps are no longer difference and sum
    codes = quantizer.encode(torch.randn(20, 8))
    coarse = codes.clone()
    coarse[:, 1:] = -1
    partial = codes.clone()
    partial[:, 2] = -1
    found = quantizer.decode(partial).view(20, 4, 2)
    assert torch.equal(found[:, 1], quantizer.decode(coarse).view(20, 4, 2)[:, 1])
    torch.testing.assert_close(found[:, [0, 2, 3]], quantizer.decode(codes).view(20, 4, 2)[:, [0, 2, 3]])


def test_every_commitment_reaches_the_input_and_the_gradient_passes_once() -> None:
    """Subtracting straight-through outputs kills the commitment of finer levels; one each multiplies the gradient."""
    quantizer = hierarchy([1, 2, 4], 8, codebook="learned")
    z = torch.randn(10, 8, requires_grad=True)
    result = quantizer(z)
    (gradient,) = torch.autograd.grad(result.vectors.sum(), z, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(z))
    codes, total = result.codes, torch.zeros(10, 8)
    expected = torch.zeros(10, 8)
    for level, part in zip(quantizer.stack, codes.split([1, 2, 4], 1), strict=True):
        total = total + level.decode_flat(part.reshape(-1, 1)).reshape(10, 8)
        expected += 2 * (z - total).detach() / (80 * 3)  # of the mean over elements and over resolutions
    (gradient,) = torch.autograd.grad(result.losses["commitment"], z)
    torch.testing.assert_close(gradient, expected)


def test_a_resolution_waits_for_the_coarser_codebook() -> None:
    """What is left over from vectors that pass a collecting codebook as they are is zero: no start for k-means."""
    quantizer = hierarchy([1, 4], 8, kmeans_init=True)
    codes = [quantizer(torch.randn(10, 8, requires_grad=True)).codes for _ in range(6)]
    assert (codes[0] == -1).all()
    assert quantizer.ready
    assert (codes[-1] >= 0).all()
    assert len(quantizer.stack[1].codebook.vectors().unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("cells", "inner", "message"),
    [
        ([1, 3], [VQ, VQ], "3 does not divide 8"),
        ([2, 1], [VQ, VQ], "2 does not divide 1"),
        ([1], [VQ, VQ], "one number of pieces for each"),
        ([], [], "one number of pieces for each"),
        ([0, 2], [VQ, VQ], "one number of pieces for each"),
        ([1, 2], [VQ, {"type": "residual", "levels": 2, "inner": VQ}], r"inner\.1: must give one code per piece"),
        ([1, 2], [VQ, {**VQ, "sise": 3}], r"inner\.1: unknown key 'sise'"),
        ([1, 2], [VQ, {**VQ, "commitment": 2.0}], "weigh their losses alike"),
    ],
)
def test_refuses_what_cannot_work(cells: list[int], inner: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"type": "hierarchy", "cells": cells, "inner": inner}, 8)
