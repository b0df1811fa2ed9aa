"""FAST: the bound on its error, what lies beyond the fitted range, lengths, files, fitting on real motion."""

import json

import numpy as np
import pytest
import torch
from scipy.fft import dct

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import actions as actions_corpus
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.action import ActionConfig, ActionTokenizer
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.train import action_tokenizer

WIDTH = 5


def actions(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    steps = [generator.standard_normal((length, WIDTH)).cumsum(0) * [1, 10, 0.1, 3, 100] for length in lengths]
    return [step.astype(np.float32) for step in steps]


def fitted(**fields):
    tokenizer = ActionTokenizer(ActionConfig(**{"features": WIDTH, "chunk": 16, "size": 512, "reach": 40, **fields}))
    tokenizer.begin(actions(200, 90, 7))
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return fitted()


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0])
def test_error_keeps_its_bound(scale):
    """A coefficient errs by half a step, and the transform keeps lengths: a chunk by 0.5 / scale * sqrt(steps)."""
    tokenizer = fitted(scale=scale, size=4096)
    media = actions(160, 33, 1, seed=3)
    for steps, decoded in zip(media, tokenizer.decode(tokenizer.encode(media)), strict=True):
        assert decoded.dtype == np.float32
        error = (decoded.astype(np.float64) - steps) / tokenizer.half_range
        for start in range(0, len(steps), 16):
            chunk = error[start : start + 16]
            assert (np.linalg.norm(chunk, axis=0) <= 0.5 / scale * np.sqrt(len(chunk)) + 1e-4).all()


def test_integers_are_rounded_cosine_coefficients_low_frequencies_first(tokenizer):
    (steps,) = actions(20)
    normalised = (steps - tokenizer.middle) / tokenizer.half_range
    chunks = tokenizer.integers_of(steps)
    for chunk, part in zip(chunks, (normalised[:16], normalised[16:]), strict=True):
        expected = np.rint(np.stack([dct(column, norm="ortho") for column in part.T], axis=1) * 10)
        np.testing.assert_array_equal(chunk, expected.reshape(-1))
    low, high = np.quantile(np.concatenate(actions(200, 90, 7)), [0.01, 0.99], axis=0)
    np.testing.assert_allclose((low - tokenizer.middle) / tokenizer.half_range, -1, atol=1e-5)
    np.testing.assert_allclose((high - tokenizer.middle) / tokenizer.half_range, 1, atol=1e-5)


def test_codes_do_not_depend_on_company_and_come_back_from_disk(tokenizer, tmp_path):
    assert isinstance(tokenizer, ModalityTokenizer)
    media = actions(16, 1, 50, 16, 17)
    codes = tokenizer.encode(media)
    tokenizer.save_pretrained(tmp_path / "action")
    again = load_tokenizer(tmp_path / "action")
    assert again.fingerprint == tokenizer.fingerprint != ""
    for steps, code, decoded in zip(media, codes, again.decode(codes), strict=True):
        assert code.dtype == torch.int64
        assert code.shape[1] == 1
        assert 0 <= int(code.min()) <= int(code.max()) < tokenizer.spec.levels[0]
        assert torch.equal(code, again.encode([steps])[0])
        assert decoded.shape == steps.shape
    (vectors,) = again.codebooks()
    assert len(vectors) == tokenizer.spec.levels[0]


def test_nothing_is_clipped(tokenizer):
    """Far outside of what was seen the bound holds as well; too far is an error that names the feature."""
    (steps,) = actions(16, seed=5)
    for factor in (5, -5, 30):
        far = steps.copy()
        far[:, 3] *= factor
        (decoded,) = tokenizer.decode(tokenizer.encode([far]))
        error = (decoded - far) / tokenizer.half_range
        assert np.linalg.norm(error, axis=0).max() <= 0.5 / 10 * np.sqrt(16) + 1e-4
    with pytest.raises(MediaError, match=r"action 1: feature 3 lies \d+ times the fitted range away"):
        tokenizer.encode([steps, steps * np.float32([1, 1, 1, 1e4, 1])])


@pytest.mark.parametrize("value", [-1e6, -131, -130, -129, -1, 0, 1, 129, 130, 131, 400])
def test_symbols_and_integers_are_inverse(tokenizer, value):
    values = np.array([0, int(value), 3, -int(value)])
    if abs(value) > 1e5:
        with pytest.raises(MediaError, match="reach"):
            tokenizer._symbols(values, "x")
    else:
        np.testing.assert_array_equal(tokenizer._integers(tokenizer._symbols(values, "x")), values)


@pytest.mark.parametrize("value", [1e19, 3e38, -3e38])
def test_what_no_integer_holds_is_out_of_reach(value):
    steps = np.full((16, WIDTH), 3.0, np.float32)  # one integer in all
    tokenizer = ActionTokenizer(ActionConfig(features=WIDTH, chunk=16))
    tokenizer.begin([steps])
    steps[0, 2] = value
    with pytest.raises(MediaError, match="feature 2 lies .* times the fitted range away"):
        tokenizer.encode([steps])


def test_codes_of_no_whole_steps_are_refused(tokenizer):
    (codes,) = tokenizer.encode(actions(20))
    for cut in range(1, len(codes)):
        integers = len(tokenizer._bpe.decode(codes[:cut, 0].numpy()))
        if integers % WIDTH:
            with pytest.raises(AnyglotError, match="no multiple of the 5 of a step"):
                tokenizer.decode([codes[:cut]])
        else:
            assert tokenizer.decode([codes[:cut]])[0].shape == (integers // WIDTH, WIDTH)
    above = torch.tensor([[tokenizer._span]])
    with pytest.raises(AnyglotError, match="a number follows"):
        tokenizer.decode([above])
    for wrong in (torch.zeros(0, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(AnyglotError, match=r"must be \[n, 1\]"):
            tokenizer.decode([wrong])
    with pytest.raises(AnyglotError, match="tokens, got"):
        tokenizer.decode([torch.full((5, 1), 511 + 1)])


def test_bad_actions_and_settings_are_named(tokenizer, tmp_path):
    with pytest.raises(MediaError, match=r"\[time, 5\]"):
        tokenizer.encode([np.zeros((3, 4), np.float32)])
    nan = actions(6)[0]
    nan[2, 3] = np.nan
    with pytest.raises(MediaError, match="NaN or infinity in 1 steps"):
        tokenizer.encode([nan])
    with pytest.raises(MediaError, match="max_steps=3000"):
        tokenizer.encode([np.zeros((3001, WIDTH), np.float32)])
    with pytest.raises(MediaError, match="max_codes=10"):
        fitted(max_codes=10).encode(actions(60))
    with pytest.raises(ConfigError, match="different integers; lower scale or raise size"):
        fitted(size=32)
    with pytest.raises(ConfigError, match="scale"):
        ActionConfig(scale=0)
    with pytest.raises(AnyglotError, match="never fitted"):
        ActionTokenizer(ActionConfig(features=WIDTH)).encode(actions(3))
    still = ActionTokenizer(ActionConfig(features=WIDTH))
    still.begin([np.full((9, WIDTH), 7, np.float32)])
    np.testing.assert_allclose(still.decode(still.encode([np.full((4, WIDTH), 7, np.float32)]))[0], 7)


def test_files(tokenizer, tmp_path):
    (steps,) = actions(9)
    tokenizer.write(steps, tmp_path / "a.npy")
    np.testing.assert_array_equal(tokenizer.read(tmp_path / "a.npy"), steps)
    np.testing.assert_array_equal(tokenizer.read((tmp_path / "a.npy").read_bytes()), steps)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:100])
    for name, message in [("object", "not a .npy file"), ("cut", "not a .npy file"), ("absent", "no such file")]:
        with pytest.raises(MediaError, match=f"{name}.npy: {message}"):
            tokenizer.read(tmp_path / f"{name}.npy")


def test_the_stage_on_motion_capture(tmp_path):
    """One number in four of a person's held-out joint targets needs a code, far from one each."""
    if not assets.cached("pybullet"):
        pytest.skip("the pybullet wheel is not in the cache: `anyglot fetch actions --out runs/actions` gets it")
    actions_corpus.run({}, tmp_path / "actions", "actions")
    found = {}
    for kind, features in (("joints", 62), ("dog", 12)):
        data = f'data.files=["{tmp_path}/actions/{kind}.jsonl"]'
        settings = [data, f"model.features={features}", f"out={tmp_path}/{kind}"]
        action_tokenizer.run(load_mapping("action/fast", settings), "test")
        found[kind] = json.loads((tmp_path / kind / "done.json").read_text())
        assert found[kind]["rmse_heldout"] < 1.1 / 10 / np.sqrt(12)  # about what rounding to steps of 1 / scale makes
    assert found["joints"]["numbers_per_code"] > 4
    assert found["joints"]["bits_per_number"] < 0.5 * found["joints"]["rounding_bits_per_number"]
    assert found["dog"]["numbers_per_code"] > 1  # fitted to 30 steps only


@pytest.mark.parametrize(
    ("splits", "items"), [((None, None), None), (("train", None), None), (("train", "heldout"), 1)]
)
def test_the_stage_measures_only_what_it_was_not_fitted_to(tmp_path, splits, items):
    lines = []
    for number, (action, split) in enumerate(zip(actions(40, 30), splits, strict=True)):
        np.save(tmp_path / f"{number}.npy", action)
        parts = [{"type": "action", "path": f"{number}.npy"}]
        lines.append(json.dumps({"id": str(number), "parts": parts} | ({"split": split} if split else {})))
    (tmp_path / "actions.jsonl").write_text("\n".join(lines))
    model = [f"model.features={WIDTH}", "model.scale=2", "model.reach=40", f"out={tmp_path}/out"]
    action_tokenizer.run(load_mapping("action/fast", [f'data.files=["{tmp_path}/actions.jsonl"]', *model]), "test")
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert done.get("items") == items
    assert ("rmse_heldout" in done) == (items is not None)
