"""The motion tokenizer: the contract, statistics, files, training."""

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.clips import read_clip
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from anyglot.tokenizers.networks.motion_conv import MotionConvConfig, MotionDecoder
from anyglot.tokenizers.objectives.motion import MotionObjective, MotionObjectiveConfig, crop
from anyglot.tokenizers.skeletons.figures import FIGURES

QUANTIZERS = {
    "vq": {"type": "vq", "size": 32, "kmeans_init": False},
    "residual": {"type": "residual", "levels": 3, "inner": {"type": "vq", "size": 16, "kmeans_init": False}},
}
WIDTH = 10


def make(quantizer="vq", **fields):
    torch.manual_seed(0)
    network = {"width": 16, "halvings": 2, "blocks": 2}
    mapping = {"features": WIDTH, "network": network, "dim": 8, "quantizer": QUANTIZERS[quantizer], "max_frames": 400}
    return MotionTokenizer(typed(MotionConfig, {**mapping, **fields})).eval()


def motions(*lengths):
    generator = np.random.default_rng(0)
    return [generator.standard_normal((length, WIDTH)).cumsum(0).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_unequal_motions_give_the_same_codes_as_one_at_a_time(quantizer, tmp_path):
    tokenizer = make(quantizer)
    assert isinstance(tokenizer, ModalityTokenizer)
    media = motions(8, 1, 7, 33, 8)
    tokenizer.begin(media)
    codes = tokenizer.encode(media)
    assert [len(code) for code in codes] == [2, 1, 2, 9, 2]
    for motion, code in zip(media, codes, strict=True):
        assert code.dtype == torch.int64
        assert code.shape[1] == len(tokenizer.spec.levels)
        assert torch.equal(code, tokenizer.encode([motion])[0])
    decoded = tokenizer.decode(codes, [len(motion) for motion in media])
    assert [motion.shape for motion in decoded] == [motion.shape for motion in media]
    assert [len(motion) for motion in tokenizer.decode(codes)] == [8, 4, 8, 36, 8]

    tokenizer.save_pretrained(tmp_path / "motion")
    again = load_tokenizer(tmp_path / "motion")
    assert isinstance(again, MotionTokenizer)
    assert again.fingerprint == tokenizer.fingerprint != ""
    for code, motion, other in zip(codes, media, again.decode(codes, [len(m) for m in media]), strict=True):
        assert torch.equal(code, again.encode([motion])[0])
        assert len(other) == len(motion)


def test_statistics_are_those_of_all_frames():
    media = motions(20, 3, 50)
    tokenizer = make()
    tokenizer.begin(media)
    frames = np.concatenate(media)
    np.testing.assert_allclose(tokenizer.mean.numpy(), frames.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokenizer.std.numpy(), frames.std(0), rtol=1e-4)
    normalised = tokenizer.normalised(torch.from_numpy(frames))
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(WIDTH))
    grouped = make(groups=[4, WIDTH])
    grouped.begin(media)
    np.testing.assert_allclose(grouped.std[:4].numpy(), frames.std(0)[:4].mean(), rtol=1e-4)
    still = [np.ones((5, WIDTH), np.float32)]
    tokenizer.begin(still)
    assert (tokenizer.std > 0).all()
    assert tokenizer.encode(still)[0].shape == (2, 1)


def test_bad_motions_and_settings_are_named(tmp_path):
    tokenizer = make()
    nan = motions(6)[0]
    nan[2, 3] = np.nan
    for motion, message in [
        (np.zeros((4, WIDTH + 1), np.float32), rf"\[frames, {WIDTH}\]"),
        (np.zeros((4, WIDTH)), "float64"),
        (np.zeros((0, WIDTH), np.float32), "got float32"),
        (nan, "NaN or infinity in 1 frames"),
        (np.zeros((401, WIDTH), np.float32), "max_frames=400"),
    ]:
        with pytest.raises(MediaError, match=message):
            tokenizer.encode([motion])
    with pytest.raises(AnyglotError, match=r"must be \[time, levels\]"):
        tokenizer.decode([torch.zeros(3, dtype=torch.int64)])
    with pytest.raises(AnyglotError, match="groups: ends of runs"):
        make(groups=[4, 6])
    with pytest.raises(ConfigError, match="halvings"):
        MotionConvConfig(halvings=-1)
    with pytest.raises(AnyglotError, match="no multiple of the stride 4"):
        tokenizer(torch.zeros(1, 6, WIDTH))


def test_files(tmp_path):
    tokenizer = make()
    (motion,) = motions(9)
    tokenizer.write(motion, tmp_path / "m.npy")
    np.testing.assert_array_equal(tokenizer.read(tmp_path / "m.npy"), motion)
    np.testing.assert_array_equal(tokenizer.read((tmp_path / "m.npy").read_bytes()), motion)
    np.save(tmp_path / "double.npy", motion.astype(np.float64))
    assert tokenizer.read(tmp_path / "double.npy").dtype == np.float32
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:100])
    for name, message in [("object", "not a .npy file"), ("cut", "not a .npy file"), ("absent", "no such file")]:
        with pytest.raises(MediaError, match=f"{name}.npy: {message}"):
            tokenizer.read(tmp_path / f"{name}.npy")


def test_training_lowers_the_error():
    tokenizer = make().train()
    media = [np.sin(np.arange(60)[:, None] * 0.2 + np.arange(WIDTH) + phase).astype(np.float32) for phase in range(4)]
    tokenizer.begin(media)
    config = MotionObjectiveConfig(frames=16, stressed=[0, 3])
    objective = MotionObjective(config)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    found = []
    for step in range(80):
        batch = crop(media, config, np.random.default_rng(step), 8)
        assert batch.shape == (8, 16, WIDTH)
        loss, terms, _ = objective.generator_loss(tokenizer, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(terms["features"]))
    assert set(terms) == {"features", "velocity", "stressed", "quantizer"}
    assert np.mean(found[-10:]) < 0.5 * np.mean(found[:10])
    assert crop([media[0][:5]], config, np.random.default_rng(0), 2).shape == (2, 16, WIDTH)  # the last frame is held


def test_previews_are_films_where_the_skeleton_is_known(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'anyglot[video]'")
    (plain,) = motions(4)
    make().preview(plain, tmp_path / "bars.mp4")
    assert len(read_clip(tmp_path / "bars.mp4", 0, 0, 10**6, 99)) == 4
    tokenizer = make(features=63, skeleton="humanoid", fps=30.0)
    assert tokenizer.preview_suffix == ".mp4"
    motion = np.random.default_rng(0).standard_normal((7, 63)).astype(np.float32)
    for ending in ("mp4", "gif"):
        tokenizer.preview(motion, tmp_path / f"film.{ending}")
        frames = read_clip(tmp_path / f"film.{ending}", 0, 0, 10**6, 99)
        assert len(frames) == 7
    with pytest.raises(ConfigError, match="skeleton"):
        make(skeleton="humanoid")


def test_folding_frames_keeps_their_number_and_order():
    tokenizer = make(network={"width": 16, "halvings": 1, "blocks": 1, "patch": 3})
    assert tokenizer.spec.axes[0].units == 6
    media = motions(12, 5)
    codes = tokenizer.encode(media)
    assert [len(code) for code in codes] == [2, 1]
    assert [len(motion) for motion in tokenizer.decode(codes)] == [12, 6]
    # What changes in one place changes the output there, not elsewhere: frames are unfolded as they were folded.
    network = MotionConvConfig(width=8, halvings=0, blocks=0, patch=4)
    decoder = MotionDecoder(network, WIDTH, 8)
    latents = torch.zeros(1, 9, 8)
    moved = latents.clone()
    moved[0, 4] = 1
    changed = (decoder(latents) != decoder(moved)).any(-1)[0]
    assert changed[8:28].all()
    assert not changed[:8].any()
    assert not changed[28:].any()
    with pytest.raises(ConfigError, match="patch"):
        MotionConvConfig(patch=0)


def test_half_of_the_pieces_are_shown_in_a_mirror():
    motion = np.random.default_rng(0).standard_normal((4, 63)).astype(np.float32)
    batch = crop([motion], MotionObjectiveConfig(frames=4, mirror="humanoid"), np.random.default_rng(0), 200).numpy()
    flipped = FIGURES["humanoid"].mirrored(motion)
    plain = (batch == motion).all((1, 2))
    assert ((batch == flipped).all((1, 2)) != plain).all()
    assert 70 < plain.sum() < 130
    assert (crop([motion], MotionObjectiveConfig(frames=4), np.random.default_rng(0), 9).numpy() == motion).all()
    with pytest.raises(ConfigError, match="mirror: 'humanml3d' is none of humanoid, signs"):
        MotionObjectiveConfig(mirror="humanml3d")


def test_an_objective_of_other_features_is_refused():
    (motion,) = motions(16)
    for stressed in ([3, 3], [5, 2], [-4, 2]):
        with pytest.raises(ConfigError, match="start before end"):
            MotionObjectiveConfig(stressed=stressed)
    with pytest.raises(ConfigError, match=r"stressed: \[12, 20\], but motions have 10 features"):
        MotionObjective(MotionObjectiveConfig(stressed=[12, 20])).generator_loss(make(), torch.zeros(1, 16, WIDTH), 0)
    with pytest.raises(ConfigError, match="mirror: signs has 136 features, motions 10"):
        crop([motion], MotionObjectiveConfig(frames=8, mirror="signs"), np.random.default_rng(0), 4)
