"""PRISE's tokenizer: lengths, observations known and foreseen, skills, bad input."""

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.action_prise import PriseConfig, PriseTokenizer
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.objectives.action_prise import PriseObjective, PriseObjectiveConfig, crop

QUANTIZER = {"type": "vq", "size": 4, "kmeans_init": False}


def make(**fields):
    torch.manual_seed(0)
    settings = {"observation": 3, "action": 2, "hidden": [8], "dim": 4, "quantizer": QUANTIZER, "size": 12}
    return PriseTokenizer(PriseConfig(**{**settings, "min_count": 2, "longest": 5, **fields})).eval()


def demonstrations(*lengths):
    generator = np.random.default_rng(0)
    return [generator.standard_normal((length, 5)).cumsum(0).astype(np.float32) for length in lengths]


def test_skills_are_the_codes_and_come_back_from_disk(tmp_path):
    tokenizer = make()
    media = demonstrations(40, 1, 17)
    tokenizer.begin(media)
    plain = tokenizer.encode(media)
    assert [code[:, 0].tolist() for code in plain] == [tokenizer.codes_of(steps).tolist() for steps in media]
    tokenizer.finish(media)
    skills = tokenizer.encode(media)
    assert sum(map(len, skills)) < sum(map(len, plain))
    assert isinstance(tokenizer, ModalityTokenizer)
    tokenizer.save_pretrained(tmp_path / "prise")
    again = load_tokenizer(tmp_path / "prise")
    assert isinstance(again, PriseTokenizer)
    for steps, skill, single, other in zip(media, skills, plain, again.decode(skills), strict=True):
        assert torch.equal(skill, again.encode([steps])[0])
        np.testing.assert_array_equal(other, tokenizer.decode([single])[0])
        assert other.shape == steps.shape
    (vectors,) = again.codebooks()
    assert vectors.shape == (12, 8)


def test_observations_are_foreseen_from_the_last_one_known():
    tokenizer = make()
    (steps,) = demonstrations(9)
    tokenizer.begin([steps])
    (codes,) = tokenizer.encode([steps])
    with torch.no_grad():  # what training sees: all observed for the actions, the first one for what is foreseen
        found = tokenizer(torch.from_numpy(steps)[None])
    mean, std = tokenizer.mean.numpy(), tokenizer.std.numpy()
    (known,) = tokenizer.decode([codes], [steps[:, :3]])
    np.testing.assert_allclose(known[:, :3], steps[:, :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(known[:, 3:], found.actions[0].numpy() * std[3:] + mean[3:], rtol=1e-4, atol=1e-4)
    (foreseen,) = tokenizer.decode([codes], [steps[:1, :3]])
    np.testing.assert_allclose(
        foreseen[:, :3], found.observations[0].numpy() * std[:3] + mean[:3], rtol=1e-4, atol=1e-4
    )
    (unknown,) = tokenizer.decode([codes])
    np.testing.assert_allclose(unknown[0, :3], mean[:3], rtol=1e-5, atol=1e-6)
    with pytest.raises(AnyglotError, match=r"at most 9, 3\], got \[10, 3\]"):
        tokenizer.decode([codes], [np.zeros((10, 3), np.float32)])


def test_training_lowers_both_errors():
    tokenizer = make(dim=8).train()
    media = demonstrations(60, 60, 60)
    tokenizer.begin(media)
    config = PriseObjectiveConfig()
    objective = PriseObjective(config)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    found = []
    for step in range(60):
        batch = crop(media, config, np.random.default_rng(step), 16)
        assert batch.shape == (16, 4, 5)
        loss, terms, _ = objective.generator_loss(tokenizer, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append([float(terms["actions"]), float(terms["forward"])])
    assert (np.mean(found[-10:], axis=0) < 0.7 * np.mean(found[:5], axis=0)).all()
    assert crop([media[0][:2]], config, np.random.default_rng(0), 2).shape == (2, 4, 5)  # the last step is held


def test_bad_input_is_named(tmp_path):
    tokenizer = make()
    with pytest.raises(MediaError, match=r"action 0: expected float32 \[time, 5\]"):
        tokenizer.encode([np.zeros((4, 6), np.float32)])
    with pytest.raises(AnyglotError, match=r"must be \[n, 1\]"):
        tokenizer.decode([torch.zeros(0, 1, dtype=torch.int64)])
    with pytest.raises(AnyglotError, match="4 tokens, got"):
        tokenizer.decode([torch.full((1, 1), 7)])
    with pytest.raises(ConfigError, match="one level of at most size=3"):
        make(size=3)
    with pytest.raises(ConfigError, match="min_count"):
        make(min_count=1)
    np.save(tmp_path / "a.npy", np.zeros((4, 6)))
    with pytest.raises(MediaError, match=r"a.npy: expected float32 \[time, 5\]"):
        tokenizer.read(tmp_path / "a.npy")
