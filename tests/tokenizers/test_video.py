"""The video tokenizer: the contract, streaming, padding, files."""

import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.clips import read_clip, write_clip
from anyglot.tokenizers.networks.discriminator import ClipDiscriminator
from anyglot.tokenizers.objectives.video import VideoObjective, VideoObjectiveConfig, crop
from anyglot.tokenizers.video import VideoConfig, VideoTokenizer

NETWORK = {
    "patch": 2,
    "channels": [8, 8, 16],
    "halve_time": [True, True],
    "blocks": 1,
    "decoder_blocks": 1,
    "groups": 4,
}
QUANTIZERS = {
    "lfq": {"type": "lfq", "bits": 9},
    "fsq": {"type": "fsq", "sizes": [8, 5, 5]},
    "residual": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}},
}


TRANSFORMER = {"type": "transformer", "patch": 8, "group": 4, "width": 16, "heads": 2, "layers": ["space", "time"]}


def make(quantizer="lfq", **fields):
    torch.manual_seed(0)
    mapping = {"network": NETWORK, "dim": 6, "quantizer": QUANTIZERS[quantizer], "max_side": 64, "max_frames": 40}
    tokenizer = VideoTokenizer(typed(VideoConfig, {**mapping, **fields}))
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tokenizer.eval()


def clips(*sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("network", [NETWORK, TRANSFORMER], ids=["conv", "transformer"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_unequal_clips_give_the_same_codes_as_one_at_a_time(quantizer, network):
    tokenizer = make(quantizer, network=network)
    assert isinstance(tokenizer, ModalityTokenizer)
    media = clips((5, 16, 16), (1, 16, 16), (2, 17, 9), (5, 16, 16), (17, 8, 8))
    codes = tokenizer.encode(media)
    assert [tuple(code.shape[:3]) for code in codes] == [(2, 2, 2), (1, 2, 2), (2, 3, 2), (2, 2, 2), (5, 1, 1)]
    for clip, code in zip(media, codes, strict=True):
        assert code.dtype == torch.int64
        assert code.shape[3] == len(tokenizer.spec.levels)
        assert torch.equal(code, tokenizer.encode([clip])[0])
    sizes = [clip.shape[:3] for clip in media]
    decoded = tokenizer.decode(codes, sizes)
    assert [clip.shape for clip in decoded] == [clip.shape for clip in media]
    assert [clip.shape[:3] for clip in tokenizer.decode(codes)][2] == (5, 24, 16)
    assert all(clip.dtype == np.uint8 for clip in decoded)


@pytest.mark.parametrize("network", [NETWORK, TRANSFORMER], ids=["conv", "transformer"])
def test_a_picture_is_a_clip_of_one_frame(network):
    tokenizer = make(network=network)
    (clip,) = clips((9, 16, 16))
    whole, first = tokenizer.encode([clip, clip[:1]])
    assert torch.equal(whole[:1], first)
    np.testing.assert_array_equal(tokenizer.decode([whole])[0][:1], tokenizer.decode([first])[0])


@pytest.mark.parametrize("network", [NETWORK, TRANSFORMER], ids=["conv", "transformer"])
def test_a_stream_gives_the_codes_and_frames_of_the_whole(network):
    tokenizer = make(network=network)
    (clip,) = clips((13, 16, 16))
    codes = tokenizer.encode([clip])[0]
    x = torch.from_numpy(clip)[None].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    state, parts = None, []
    for part in x.split([0, 1, 2, 0, 3, 7], dim=2):
        found, state = tokenizer.encode_stream(part, state)
        parts.append(found)
    assert torch.equal(torch.cat(parts, 1)[0], codes)
    state, drawn = None, []
    for part in codes[None].split([0, 1, 1, 0, 2], dim=1):
        frames, state = tokenizer.decode_stream(part, state)
        drawn.append(frames)
    together = torch.cat(drawn, 2).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    whole = torch.from_numpy(tokenizer.decode([codes])[0])
    assert (together[0].permute(1, 2, 3, 0).int() - whole.int()).abs().max() <= 1
    state, chunks = None, []
    for part in codes.split([0, 1, 1, 0, 2]):
        chunk, state = tokenizer.decode_chunk(part, state)
        chunks.append(chunk)
    assert np.array_equal(np.concatenate(chunks), together[0].permute(1, 2, 3, 0))


@pytest.mark.parametrize("network", [NETWORK, TRANSFORMER], ids=["conv", "transformer"])
def test_save_and_load(tmp_path, network):
    tokenizer = make("residual", network=network)
    media = clips((5, 16, 16), (3, 9, 16))
    tokenizer.save_pretrained(tmp_path / "video")
    again = load_tokenizer(tmp_path / "video")
    assert isinstance(again, VideoTokenizer)
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert again.spec == tokenizer.spec
    assert [axis.length for axis in again.spec.axes] == ["open", "sized", "sized"]
    for a, b in zip(tokenizer.encode(media), again.encode(media), strict=True):
        assert torch.equal(a, b)
        np.testing.assert_array_equal(tokenizer.decode([a])[0], again.decode([b])[0])


def test_bad_clips_are_named():
    tokenizer = make()
    for clip, message in [
        (np.zeros((2, 4, 4), np.uint8), "expected uint8"),
        (np.zeros((2, 4, 4, 3), np.float32), "expected uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), "expected uint8"),
        (np.zeros((2, 65, 4, 3), np.uint8), "max_side=64"),
        (np.zeros((41, 4, 4, 3), np.uint8), "max_frames=40"),
    ]:
        with pytest.raises(MediaError, match=message):
            tokenizer.encode([clip])
    with pytest.raises(AnyglotError, match=r"must be \[time, rows, columns, levels\]"):
        tokenizer.decode([torch.zeros(2, 2, 1, dtype=torch.int64)])
    with pytest.raises(AnyglotError, match="1 more than a multiple of 4"):
        tokenizer(torch.zeros(1, 3, 4, 16, 16))


def test_networks_are_chosen_by_type():
    for network, message in [
        ({"type": "recurrent"}, "network.type: one of conv, transformer, got 'recurrent'"),
        ({"type": "transformer", "channels": [8]}, "channels"),
        ({"patch": 2, "layers": ["space"]}, "layers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make(network=network)


def moving_square(frames=12, side=32):
    clip = np.full((frames, side, side, 3), 255, np.uint8)
    for index in range(frames):
        clip[index, 8:16, index : index + 10] = (200, 30, 30)
    return clip


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif"])
def test_files_keep_frames_and_time(tmp_path, ending):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    clip = moving_square()
    write_clip(clip, 8, tmp_path / f"clip.{ending}")
    exact = clip.shape[1] * clip.shape[2]  # decoders pad frames, which is within the limit
    back = read_clip(tmp_path / f"clip.{ending}", 8, 0, exact, 100)
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip).mean() < 6
    half = read_clip(tmp_path / f"clip.{ending}", 4, 16, 10**6, 100)
    assert half.shape == (6, 16, 16, 3)
    twice = read_clip((tmp_path / f"clip.{ending}").read_bytes(), 16, 0, 10**6, 100)
    assert 23 <= len(twice) <= 24
    assert np.abs(twice[::2][:12].astype(int) - back[: len(twice[::2])]).max() == 0


def test_odd_sides_are_written(tmp_path):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    write_clip(moving_square(3, 31), 8, tmp_path / "odd.mp4")
    assert read_clip(tmp_path / "odd.mp4", 0, 0, 10**6, 10).shape == (3, 32, 32, 3)


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif"])
def test_a_clip_may_be_just_as_large_as_is_allowed(tmp_path, ending):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    clip = moving_square(5)
    write_clip(clip, 10, tmp_path / f"clip.{ending}")
    back = read_clip(tmp_path / f"clip.{ending}", 10, 0, 32 * 32, 5)
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip).mean() < 6
    for limits in ((32 * 32 - 1, 5), (32 * 32, 4)):
        with pytest.raises(MediaError, match="more than"):
            read_clip(tmp_path / f"clip.{ending}", 10, 0, *limits)


def test_no_frame_is_decoded_that_claims_to_be_huge(tmp_path):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    (tmp_path / "huge.gif").write_bytes(
        b"GIF89a" + b"\xff" * 4 + b"\0" * 3 + b"," + b"\0" * 4 + b"\xff" * 4 + b"\0" * 50
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError):
        read_clip(tmp_path / "huge.gif", 10, 0, 10**6, 5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


def test_files_that_are_no_clip_are_named(tmp_path):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    write_clip(moving_square(), 8, tmp_path / "clip.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:300])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, message in [("cut.mp4", "not a video"), ("empty.mp4", "not a video"), ("absent.mp4", "no such file")]:
        with pytest.raises(MediaError, match=f"{name}: {message}"):
            read_clip(tmp_path / name, 8, 0, 10**6, 100)
    with pytest.raises(MediaError, match="max_pixels=100"):
        read_clip(tmp_path / "clip.mp4", 8, 0, 100, 100)
    with pytest.raises(MediaError, match="max_frames=5"):
        read_clip(tmp_path / "clip.mp4", 8, 0, 10**6, 5)


def test_a_list_of_videos_is_no_video(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    monkeypatch.chdir(tmp_path)  # FFmpeg itself refuses names that lead out of the folder
    write_clip(moving_square(), 8, "clip.mp4")
    wanted = b"ffconcat version 1.0\nfile clip.mp4\n"
    Path("list.ffconcat").write_bytes(wanted)
    for source in (wanted, Path("list.ffconcat")):
        with pytest.raises(MediaError, match="not a video"):
            read_clip(source, 8, 0, 10**6, 100)


def test_a_frame_on_show_for_years_is_refused_before_it_is_repeated(tmp_path):
    av = pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    with av.open(str(tmp_path / "long.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for time in (0, 8 * 10**7):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    tracemalloc.start()
    try:
        with pytest.raises(MediaError, match="max_frames=100"):
            read_clip(tmp_path / "long.mkv", 8, 0, 10**6, 100)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


def test_a_training_batch_is_cut_from_one_place_and_time():
    config = VideoObjectiveConfig(height=16, width=16, frames=5, perceptual=0.0, adversarial=0.0)
    media = [moving_square(12), moving_square(3)]
    batch = crop(media, config, np.random.default_rng(0), 6)
    assert batch.shape == (6, 3, 5, 16, 16)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, crop(media, config, np.random.default_rng(0), 6))
    stills = VideoObjectiveConfig(height=16, width=16, frames=5, stills=1.0, perceptual=0.0, adversarial=0.0)
    assert crop(media, stills, np.random.default_rng(0), 2).shape == (2, 3, 1, 16, 16)
    static = [np.repeat(moving_square(1), 9, 0)]
    still = crop(static, config, np.random.default_rng(0), 4)
    assert torch.equal(still, still[:, :, :1].expand_as(still))  # the same window and mirroring in every frame


def test_the_objective_trains_both_players():
    torch.manual_seed(0)
    tokenizer = make("fsq").train()
    config = VideoObjectiveConfig(
        height=16, width=16, frames=5, perceptual=0.0, adversarial=0.5, adversarial_start=0, discriminator_width=8
    )
    objective = VideoObjective(config)
    assert isinstance(objective.discriminator, ClipDiscriminator)
    batch = crop([moving_square(12)], config, np.random.default_rng(0), 2)
    loss, terms, reconstruction = objective.generator_loss(tokenizer, batch, 5)
    loss.backward()
    assert terms["adversarial_weight"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
    value, _ = objective.discriminator_loss(batch, reconstruction, 5)
    value.backward()
    assert all(p.grad is not None for p in objective.discriminator.parameters())
    assert objective.pictures(batch).shape == (10, 3, 16, 16)
    objective.config.perceptual_pictures = 4
    assert objective.pictures(batch).shape == (4, 3, 16, 16)


@pytest.mark.parametrize("fields", [{"fps": -1.0}, {"shorter_side": -1}, {"max_frames": 0}, {"batch_pixels": 0}])
def test_impossible_limits_are_refused(fields):
    with pytest.raises(ConfigError, match=f"{next(iter(fields))} .*must be"):
        typed(VideoConfig, fields)
