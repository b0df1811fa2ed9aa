"""The HumanML3D protocol by hand, by a slow twin, and on features with a known answer."""

import json

import numpy as np
import pytest

from anyglot.errors import AnyglotError
from anyglot.eval.benchmarks.humanml3d import BATCH, diversity, matching, measure, multimodality, run


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((330, 4))


def slow_matching(texts, motions):
    """Batch by batch, text by text, by sorting."""
    found, distances = {1: [], 2: [], 3: []}, []
    for start in range(0, len(texts) - BATCH + 1, BATCH):
        for own in range(BATCH):
            apart = [np.sqrt(((texts[start + own] - motions[start + i]) ** 2).sum()) for i in range(BATCH)]
            order = sorted(range(BATCH), key=lambda i: apart[i])
            distances.append(apart[own])
            for top in found:
                found[top].append(own in order[:top])
    return {f"r_precision_top{top}": np.mean(hits) for top, hits in found.items()} | {
        "matching_score": np.mean(distances)
    }


def test_matching_is_its_slow_twin(features):
    noisy = features + np.random.default_rng(1).standard_normal(features.shape)
    found = matching(features, noisy)
    assert found == pytest.approx(slow_matching(features, noisy))
    assert 0 < found["r_precision_top1"] < found["r_precision_top2"] < found["r_precision_top3"] < 1


def test_motions_that_are_all_alike_are_matched_by_chance(features):
    found = matching(features[:320], np.zeros((320, 4)))
    assert [found[f"r_precision_top{top}"] for top in (1, 2, 3)] == pytest.approx([1 / 32, 2 / 32, 3 / 32])


def test_perfect_motions_match_and_are_as_far_apart_as_the_real_ones(features):
    figures = measure(features, features, features, replications=3)
    assert figures["r_precision_top1"] == 1.0
    assert figures["r_precision_top1_interval"] == 0.0
    assert figures["matching_score"] == 0.0
    assert figures["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert (figures["texts"], figures["unmatched"]) == (330, 330 - 320)
    assert "multimodality" not in figures


def test_the_frechet_distance_of_moved_motions(features):
    figures = measure(features, features + 2.0, features, replications=2)  # the same spread, 2 away on each of 4 axes
    assert figures["frechet_distance"] == pytest.approx(16.0)
    assert figures["matching_score"] == pytest.approx(4.0)


def test_the_interval_is_of_replications_with_motions_of_their_own(features):
    written = np.stack([features, features + 2.0])  # matching scores 0 and 4
    figures = measure(features, written, features, replications=2)
    assert figures["matching_score"] == pytest.approx(2.0)
    assert figures["matching_score_interval"] == pytest.approx(1.96 * 2 / np.sqrt(2))


def test_diversity_and_multimodality_by_hand():
    rng = np.random.default_rng(0)
    far = np.zeros((301, 2))
    assert diversity(far, rng) == 0
    # two values 0 and 5 on one axis, far apart half of the time
    values = np.tile([[0.0], [5.0]], (3000, 1))
    assert diversity(values, rng) == pytest.approx(2.5, abs=0.5)
    several = np.zeros((3, 30, 2))
    assert multimodality(several, rng) == 0
    several[:, :15, 1] = 4.0
    assert multimodality(several, rng) in [4 * k / 10 for k in range(11)]


def test_features_that_do_not_go_together_are_refused(features):
    for arguments, message in (
        ((features, features[:300], features), "of the same texts"),
        ((features[:300],) * 3, "too few"),
        ((features, np.stack([features] * 3), features), "set replications to that"),
        ((features, features, features, np.zeros((5, 9, 4))), "several"),
        ((features, np.where(np.arange(330)[:, None] == 3, np.nan, features), features), "not finite"),
    ):
        with pytest.raises(AnyglotError, match=message):
            measure(*arguments, replications=2)


def test_figures_bear_their_evaluator_s_name_and_the_seed_repeats_them(features, tmp_path):
    names = ("texts", "motions", "real")
    for name in names:
        np.save(tmp_path / f"{name}.npy", features)
    config = {name: str(tmp_path / f"{name}.npy") for name in names}
    config |= {"kind": "humanml3d", "out": str(tmp_path), "evaluator": "own", "replications": 2}
    found = run(config, "here")
    assert found["humanml3d.own.r_precision_top3"] == 1.0
    assert run(config, "here") == found
    fingerprints = json.loads((tmp_path / "records.json").read_text())["fingerprints"]
    assert fingerprints.keys() == {"texts", "motions", "real"}  # the same of files that lie elsewhere
    np.save(tmp_path / "moved.npy", features)
    run(config | {"motions": str(tmp_path / "moved.npy")}, "here")
    assert json.loads((tmp_path / "records.json").read_text())["fingerprints"] == fingerprints
    np.save(tmp_path / "real.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(AnyglotError, match=r"real\.npy: no array of numbers"):
        run(config, "here")
