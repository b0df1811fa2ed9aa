"""Causal layers: exact lengths, no look into the future, and a stream that equals the whole at any chunking."""

import pytest
import torch

from anyglot.tokenizers.networks.causal import (
    Causal,
    CausalConv1d,
    CausalConvTranspose1d,
    CausalLSTM,
    CausalResidual,
    CausalSequential,
)
from anyglot.tokenizers.networks.convnext import ConvNeXtBlock, convnext_stack

LAYERS = {
    "conv": lambda: CausalConv1d(4, 4, 7),
    "conv with a wide gap": lambda: CausalConv1d(4, 4, 3, dilation=4),
    "pointwise": lambda: CausalConv1d(4, 4, 1),
    "stride 3": lambda: CausalConv1d(4, 4, 6, stride=3),
    "stride 5, kernel 5": lambda: CausalConv1d(4, 4, 5, stride=5),
    "up 3": lambda: CausalConvTranspose1d(4, 4, 6, 3),
    "up 7, normalised": lambda: CausalConvTranspose1d(4, 4, 14, 7, normalised=True),
    "up 3, long overlap": lambda: CausalConvTranspose1d(4, 4, 11, 3),
    "up 2, no overlap": lambda: CausalConvTranspose1d(4, 4, 2, 2),
    "lstm": lambda: CausalLSTM(4, 2),
    "residual": lambda: CausalResidual(CausalSequential(torch.nn.ELU(), CausalConv1d(4, 4, 3, normalised=True))),
    "stack": lambda: CausalSequential(CausalConv1d(4, 4, 4, 2), torch.nn.ELU(), CausalConvTranspose1d(4, 4, 6, 3)),
}


def randomised(layer: Causal) -> Causal:
    """Biases start at zero, which would hide one that is added twice."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer.eval()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("chunk", [1, 2, 3])  # in units of 30 inputs, a multiple of every stride, and odd ones below
def test_a_stream_equals_the_whole(name, chunk):
    layer = randomised(LAYERS[name]())
    unit = {"stride 3": 3, "stride 5, kernel 5": 5, "stack": 2}.get(name, 1)
    x = torch.randn(2, 4, 30)
    whole, _ = layer(x)
    state, pieces = None, []
    for start in range(0, 30, chunk * unit):
        piece, state = layer(x[:, :, start : start + chunk * unit], state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_the_future_does_not_matter(name):
    layer = randomised(LAYERS[name]())
    x = torch.randn(1, 4, 60)
    before, _ = layer(x)
    changed = x.clone()
    changed[:, :, 30:] += 1
    after, _ = layer(changed)
    half = before.shape[2] // 2
    assert torch.equal(before[:, :, :half], after[:, :, :half])
    assert not torch.allclose(before[:, :, half:], after[:, :, half:])


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_lengths_are_exact(stride, steps):
    down = CausalConv1d(4, 4, 2 * stride, stride)(torch.randn(1, 4, steps * stride))[0]
    up = CausalConvTranspose1d(4, 4, 2 * stride, stride)(torch.randn(1, 4, steps))[0]
    assert down.shape[2] == steps
    assert up.shape[2] == steps * stride


def test_transposed_convolution_equals_torch_with_the_tail_cut():
    layer = randomised(CausalConvTranspose1d(4, 3, 10, 5))
    x = torch.randn(2, 4, 6)
    twin = torch.nn.functional.conv_transpose1d(x, layer.conv.weight, layer.bias, stride=5)[:, :, : 6 * 5]
    torch.testing.assert_close(layer(x)[0], twin)


def test_shapes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="skips inputs"):
        CausalConv1d(1, 1, 2, stride=3)
    with pytest.raises(ValueError, match="leaves gaps"):
        CausalConvTranspose1d(1, 1, 2, 3)


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_convnext_streams_and_is_causal(chunk):
    stack = randomised(convnext_stack(6, 8, blocks=2, kernel=5))
    x = torch.randn(2, 9, 6)
    whole, _ = stack(x)
    state, pieces = None, []
    for start in range(0, 9, chunk):
        piece, state = stack(x[:, start : start + chunk], state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)
    assert torch.equal(stack(x[:, :5])[0], whole[:, :5]) or torch.allclose(stack(x[:, :5])[0], whole[:, :5], atol=1e-6)


def test_convnext_block_starts_near_the_identity():
    x = torch.randn(1, 5, 8)
    y, _ = ConvNeXtBlock(8, 24, kernel=7, scale=0.0)(x)
    assert torch.equal(x, y)
