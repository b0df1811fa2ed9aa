"""Attention along axes of a grid of frames, and the transformers made of it: twins, causality, streaming."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.video_attention import KINDS, AxialAttention, GridAttention
from anyglot.tokenizers.networks.video_transformer import (
    VideoTransformerConfig,
    VideoTransformerDecoder,
    VideoTransformerEncoder,
    places,
)

LAYERS = {
    "phenaki": ["space", "time", "time"],
    "omni": ["window", "space", "time"],
    "bsq": ["joint", "joint"],
    "axial": ["rows", "columns", "time"],
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_network = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)


def networks(layers: list[str], group: int = 2) -> tuple[VideoTransformerEncoder, VideoTransformerDecoder]:
    torch.manual_seed(0)
    config = typed(
        VideoTransformerConfig,
        {"patch": 4, "group": group, "width": 16, "heads": 2, "layers": layers, "window": 2},
    )
    encoder, decoder = VideoTransformerEncoder(config, 5).eval(), VideoTransformerDecoder(config, 5).eval()
    for network in (encoder, decoder):
        torch.nn.init.normal_(network.further.weight, std=0.1)  # starts at zero: make it act
    return encoder, decoder


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sees(kind: str, asking: tuple[int, int, int], asked: tuple[int, int, int], window: int) -> bool:
    """Whether a place (frame, row, column) may look at another: the rule in words."""
    (t, r, c), (u, s, d) = asking, asked
    return {
        "space": t == u,
        "rows": t == u and r == s,
        "columns": t == u and c == d,
        "window": t == u and r // window == s // window and c // window == d // window,
        "time": u <= t and (r, c) == (s, d),
        "joint": u <= t,
    }[kind]


@every_kind
@torch.no_grad()
def test_attention_equals_one_place_at_a_time(kind: str) -> None:
    """The twin: for every place and head, a softmax over the places it sees, less the slope for frames ago."""
    torch.manual_seed(0)
    window, heads, width = 2, 2, 8
    layer = GridAttention(width, heads, kind, window)
    x = random(2, 3, 3, 5, width)
    found, _ = layer(x)
    grid = [(t, r, c) for t in range(3) for r in range(3) for c in range(5)]
    query, key, value = layer.entrance(x).chunk(3, dim=-1)
    each = width // heads
    expected = torch.zeros_like(x)
    for batch in range(2):
        for place in grid:
            seen = [other for other in grid if sees(kind, place, other, window)]
            for head in range(heads):
                part = slice(head * each, (head + 1) * each)
                slope = 2.0 ** (-8 * (head + 1) / heads) if kind in ("time", "joint") else 0.0
                scores = torch.stack(
                    [
                        query[batch, *place, part] @ key[batch, *other, part] / each**0.5
                        - slope * (place[0] - other[0])
                        for other in seen
                    ]
                )
                for weight, other in zip(scores.softmax(0), seen, strict=True):
                    expected[batch, *place, part] += weight * value[batch, *other, part]
    torch.testing.assert_close(found, layer.exit(expected), atol=1e-5, rtol=1e-5)


@every_network
@pytest.mark.parametrize("group", [1, 2, 3])
@torch.no_grad()
def test_chunks_of_any_length_equal_the_whole(layers: list[str], group: int) -> None:
    encoder, decoder = networks(layers, group)
    clip = random(2, 3, 13, 8, 12)
    latents, _ = encoder(clip)
    assert latents.shape == (2, 1 + 12 // group, 2, 3, 5)
    frames, _ = decoder(latents)
    assert frames.shape == clip.shape
    for cuts in ([1, 2, 3, 7], [13], [1] * 13, [6, 7]):
        state, parts = None, []
        for part in clip.split(cuts, dim=2):
            found, state = encoder(part, state)
            parts.append(found)
        torch.testing.assert_close(torch.cat(parts, 1), latents, atol=1e-5, rtol=1e-5)
    state, parts = None, []
    for part in latents.split([1, latents.shape[1] - 3, 2], dim=1):
        drawn, state = decoder(part, state)
        parts.append(drawn)
    torch.testing.assert_close(torch.cat(parts, 2), frames, atol=1e-5, rtol=1e-5)


@every_network
@torch.no_grad()
def test_no_frame_depends_on_a_later_one(layers: list[str]) -> None:
    encoder, decoder = networks(layers)
    clip = random(1, 3, 9, 8, 8)
    latents, frames = encoder(clip)[0], decoder(random(1, 5, 2, 2, 5))[0]
    for cut in range(1, 9):
        changed = clip.clone()
        changed[:, :, cut:] = random(1, 3, 9 - cut, 8, 8, seed=cut)
        kept = 1 + (cut - 1) // 2  # codes of the frames before the cut
        torch.testing.assert_close(encoder(changed)[0][:, :kept], latents[:, :kept])
        assert not torch.allclose(encoder(changed)[0][:, kept:], latents[:, kept:])
    for cut in range(1, 5):
        changed = random(1, 5, 2, 2, 5)
        changed[:, cut:] = random(1, 5 - cut, 2, 2, 5, seed=cut)
        torch.testing.assert_close(decoder(changed)[0][:, :, : 2 * cut - 1], frames[:, :, : 2 * cut - 1])


@torch.no_grad()
def test_a_picture_is_a_clip_of_one_frame() -> None:
    encoder, decoder = networks(LAYERS["phenaki"])
    clip = random(1, 3, 5, 8, 8)
    latents = encoder(clip)[0]
    torch.testing.assert_close(encoder(clip[:, :, :1])[0], latents[:, :1])
    torch.testing.assert_close(decoder(latents[:, :1])[0], decoder(latents)[0][:, :, :1])


@torch.no_grad()
def test_at_first_a_group_is_coded_as_its_mean_picture() -> None:
    """So that what pictures taught serves clips; without attention to other frames it is exactly so."""
    encoder, decoder = networks(["space", "space"])
    for network in (encoder, decoder):
        network.further.weight.zero_()
    clip = random(1, 3, 5, 8, 8)
    latents = encoder(clip)[0]
    torch.testing.assert_close(latents[:, 1:2], encoder(clip[:, :, 1:3].mean(2, keepdim=True))[0])
    frames = decoder(latents)[0]
    torch.testing.assert_close(frames[:, :, 1], frames[:, :, 2])
    torch.testing.assert_close(frames[:, :, 1:2], decoder(latents[:, 1:2])[0])


def test_places_differ_and_do_not_depend_on_the_grid() -> None:
    small, large = places(torch.zeros(1, 1, 3, 4, 16)), places(torch.zeros(1, 1, 8, 8, 16))
    torch.testing.assert_close(small, large[:3, :4])
    lines = large.flatten(0, 1)
    assert torch.cdist(lines, lines).fill_diagonal_(1).min() > 0.1


@torch.no_grad()
def test_axial_attention_is_the_sum_of_its_axes() -> None:
    torch.manual_seed(0)
    layer = AxialAttention(8, 2)
    x = random(2, 8, 3, 4, 5)
    last = layer.norm(x.permute(0, 2, 3, 4, 1))
    expected = x + sum(axis(last)[0] for axis in layer.axes).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(layer(x)[0], expected)
    state, parts = None, []
    for start, stop in pairwise([0, 1, 3]):
        found, state = layer(x[:, :, start:stop], state)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ["space", "tiem"]}, "layers: one or more of space"),
        ({"layers": []}, "layers: one or more"),
        ({"width": 30}, "width: must be a multiple of 4"),
        ({"width": 0}, "width: must be a multiple of 4"),
        ({"patch": 0}, "must be 1 or more"),
    ],
)
def test_impossible_shapes_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed(VideoTransformerConfig, fields)
