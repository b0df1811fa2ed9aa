"""Causality, streaming and shapes of the video networks, for kernels and strides of all kinds."""

import pytest
import torch

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.causal_video import (
    CausalConv3d,
    FrameNorm,
    Upsample3d,
    VideoConvConfig,
    VideoDecoder,
    VideoEncoder,
    inflate,
)
from anyglot.tokenizers.networks.conv import ConvConfig, Decoder, Encoder

SHAPE = {"patch": 2, "channels": [8, 8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4}
KINDS = {
    "both": {"halve_time": [True, True]},
    "first": {"halve_time": [True, False]},
    "none": {"halve_time": [False, False]},
    "short": {"halve_time": [True, True], "kernel": 2},
    "time first": {"halve_time": [True, True], "halve_space": [False, True], "patch": 4},
    "factorised": {"halve_time": [True, True], "factorised": True},
    "axial": {"halve_time": [True, False], "axial_heads": 2},
    "long": {"halve_time": [False, True], "kernel": 4},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def config(kind: str) -> VideoConvConfig:
    return typed(VideoConvConfig, {**SHAPE, **KINDS[kind]})


def networks(kind: str) -> tuple[VideoEncoder, VideoDecoder]:
    torch.manual_seed(0)
    encoder, decoder = VideoEncoder(config(kind), 6), VideoDecoder(config(kind), 6)
    for network in (encoder, decoder):
        for parameter in network.parameters():  # blocks start as the identity: make them act
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval(), decoder.eval()


def clip(frames: int, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, frames, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_equals_one_over_explicit_zeros(kernel: int, stride: int) -> None:
    """The twin: put the zeros there, take the plain convolution."""
    if kernel < stride:
        return
    torch.manual_seed(0)
    layer = CausalConv3d(3, 5, kernel, time_stride=stride)
    for frames in (1, 2, 5, 8):
        x = clip(frames)
        padded = torch.cat([torch.zeros(2, 3, kernel - 1, 16, 24), x], 2)
        expected = torch.nn.functional.conv3d(padded, layer.conv.weight, layer.conv.bias, (stride, 1, 1), (0, 1, 1))
        assert expected.shape[2] == 1 + (frames - 1) // stride
        torch.testing.assert_close(layer(x)[0], expected)


@every_kind
@torch.no_grad()
def test_chunks_of_any_length_equal_the_whole(kind: str) -> None:
    encoder, decoder = networks(kind)
    x = clip(17)
    whole = encoder(x)[0]
    assert whole.shape == (2, 1 + 16 // config(kind).time_stride, 2, 3, 6)
    drawn = decoder(whole)[0]
    assert drawn.shape == x.shape
    for cuts in ([1] * 17, [5, 1, 7, 4], [16, 1], [2, 2, 2, 2, 9]):
        state, parts = None, []
        for part in x.split(cuts, dim=2):
            latents, state = encoder(part, state)
            parts.append(latents)
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
    for cuts in ([1] * whole.shape[1], [1, whole.shape[1] - 1], [2, whole.shape[1] - 2]):
        state, parts = None, []
        for part in whole.split(cuts, dim=1):
            frames, state = decoder(part, state)
            parts.append(frames)
        torch.testing.assert_close(torch.cat(parts, 2), drawn, atol=1e-5, rtol=1e-5)


@every_kind
@torch.no_grad()
def test_the_future_changes_nothing_of_the_past(kind: str) -> None:
    encoder, decoder = networks(kind)
    stride = config(kind).time_stride
    x = clip(17)
    changed = x.clone()
    changed[:, :, 9:] = clip(8, seed=1)
    before, after = encoder(x)[0], encoder(changed)[0]
    known = 1 + 8 // stride  # codes of the frames 0 .. 8
    assert torch.equal(before[:, :known], after[:, :known])
    assert not torch.equal(before[:, known:], after[:, known:])
    frames = 1 + (known - 1) * stride
    mixed = torch.cat([before[:, :known], after[:, known:]], 1)
    drawn, other = decoder(before)[0], decoder(mixed)[0]
    torch.testing.assert_close(drawn[:, :, :frames], other[:, :, :frames], atol=1e-6, rtol=1e-5)
    assert (drawn[:, :, frames:] - other[:, :, frames:]).abs().max() > 0.01


@every_kind
@torch.no_grad()
def test_one_frame_is_coded_as_the_first_of_a_clip(kind: str) -> None:
    encoder, decoder = networks(kind)
    x = clip(9)
    first = encoder(x[:, :, :1])[0]
    torch.testing.assert_close(first, encoder(x)[0][:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder(first)[0], decoder(encoder(x)[0])[0][:, :, :1], atol=1e-5, rtol=1e-5)


def test_norm_is_that_of_each_frame_alone() -> None:
    norm = FrameNorm(2, 8)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 8, 5, 4, 6)
    plain = torch.nn.GroupNorm(2, 8)
    plain.load_state_dict(norm.state_dict())
    expected = torch.stack([plain(x[:, :, t]) for t in range(5)], 2)
    torch.testing.assert_close(norm(x), expected)


def test_upsampling_doubles_all_frames_but_the_first() -> None:
    layer = Upsample3d(4, 4, config("both"), double_time=True, double_space=True)
    y, state = layer(torch.randn(1, 4, 3, 2, 2))
    assert y.shape == (1, 4, 5, 4, 4)
    assert layer(torch.randn(1, 4, 2, 2, 2), state)[0].shape == (1, 4, 4, 4, 4)


@pytest.mark.parametrize("kind", ["both", "none"])
@torch.no_grad()
def test_inflated_networks_code_the_first_frame_as_the_picture_networks_do(kind: str) -> None:
    torch.manual_seed(0)
    picture = typed(ConvConfig, {**SHAPE, "attention": False})
    encoder, decoder = Encoder(picture, 6).eval(), Decoder(picture, 6).eval()
    for network in (encoder, decoder):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    ours = networks(kind)
    inflate(ours[0], encoder)
    inflate(ours[1], decoder)
    x = clip(1)
    latents = ours[0](x)[0]
    torch.testing.assert_close(latents[:, 0], encoder(x[:, :, 0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1](latents)[0][:, :, 0], decoder(latents[:, 0]), atol=1e-4, rtol=1e-4)
    standing = clip(1).expand(-1, -1, 5, -1, -1)  # and every frame of a clip that stands still
    drawn = ours[1](ours[0](standing)[0])[0]
    torch.testing.assert_close(drawn, drawn[:, :, :1].expand_as(drawn), atol=1e-5, rtol=1e-5)


def test_networks_of_other_shapes_do_not_inflate() -> None:
    encoder = networks("both")[0]
    with pytest.raises(ConfigError, match="no attention"):
        inflate(encoder, Encoder(typed(ConvConfig, {**SHAPE, "attention": True}), 6))
    with pytest.raises(ConfigError, match="the picture's"):
        inflate(encoder, Encoder(typed(ConvConfig, {**SHAPE, "channels": [8, 8, 8], "attention": False}), 6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"halve_time": [True]}, "halve_time: one entry for each step down, 2"),
        ({"halve_time": [True, True], "kernel": 1}, "kernel: must be 2"),
        ({"channels": [8, 9, 16]}, "not a multiple"),
        ({"channels": []}, "channels: one width or more"),
        ({"groups": 0}, "groups and channels must be 1 or more"),
    ],
)
def test_impossible_shapes_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed(VideoConvConfig, {**SHAPE, **fields})
