"""Figures item by item: intervals, differences, records that are read again, and what a comparison tells."""

import json

import numpy as np
import pytest

from anyglot.errors import AnyglotError
from anyglot.eval import comparison
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.scores import Score, difference

NAMES = [str(place) for place in range(40)]


def test_a_figure_is_a_ratio_of_sums():
    assert Score(["a", "b"], [1, 2], [4, 2]).value == 0.5
    assert Score.mean(["a", "b"], [True, False]).value == 0.5
    assert Score.mean(["a", "b"], [0.0, 2.0], scale="psnr").value == pytest.approx(10 * np.log10(255**2))
    nothing = Score([], [], [], failed={"a": "too short"})
    assert nothing.value is None
    assert nothing.interval() is None


def test_the_interval_is_that_of_a_slow_bootstrap():
    drawn = np.random.default_rng(0)
    errors, words = drawn.integers(0, 4, 40).tolist(), drawn.integers(1, 9, 40).tolist()
    low, high = Score(NAMES, errors, words).interval()
    slow = []
    for _ in range(2000):
        chosen = drawn.integers(0, 40, 40)
        slow.append(sum(errors[i] for i in chosen) / sum(words[i] for i in chosen))
    assert (low, high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])), abs=0.02)
    assert Score(NAMES, errors, words).interval() == (low, high)  # by seed
    assert Score.mean(["a"], [1.0]).interval() is None


def wilson(share, n, z=1.959964):
    """The whole formula (Wilson 1927), of any share."""
    middle, width = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return pytest.approx(((middle - width) / (1 + z**2 / n), (middle + width) / (1 + z**2 / n)), abs=1e-9)


def test_a_share_of_none_or_all_is_not_certain_for_that():
    """Every resample would be the same, however few there are."""
    assert Score.mean(NAMES, [True] * 40).interval() == wilson(1.0, 40)
    assert Score.mean(NAMES, [False] * 40).interval() == wilson(0.0, 40)
    assert Score(NAMES, [0.0] * 40, [3.0] * 40).interval() == wilson(0.0, 40)
    assert Score.mean(NAMES, [True] * 40, groups=[str(i // 4) for i in range(40)]).interval() == wilson(1.0, 10)
    assert Score(["a", "b", "c"], [2.0, 1.0, 1.0], [2.0, 1.0, 1.0]).interval() == wilson(1.0, 16 / 6)  # by weight
    assert Score.mean(NAMES, [4.0] * 40).interval() == (4.0, 4.0)  # no share
    assert Score.mean(NAMES, [0.0] * 40, scale="psnr").interval() is not None


def test_items_of_one_group_count_together():
    """Ten prompts with four pictures each, all four alike: forty pictures tell no more than ten."""
    right, groups = [float(i // 4 % 2) for i in range(40)], [f"prompt {i // 4}" for i in range(40)]
    together = Score.mean(NAMES, right, groups=groups).interval()
    alone = Score.mean(NAMES, right).interval()
    assert together == Score.mean(NAMES[:10], right[::4]).interval()
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])
    after = Score.mean(NAMES, [1.0] * 40, groups=groups)
    found = difference(Score.mean(NAMES, right, groups=groups), after)
    assert (found.items, found.groups, found.certain) == (40, 10, True)
    assert found.interval == difference(Score.mean(NAMES, right), after).interval  # records may be older than groups
    few = difference(*(Score.mean(NAMES, values, groups=groups[:12] * 3 + groups[:4]) for values in (right, [1] * 40)))
    assert (few.groups, few.certain) == (3, False)


def test_a_difference_is_of_the_items_that_both_have():
    before = Score.mean(NAMES, [float(i % 2) for i in range(40)])
    after = Score.mean([*reversed(NAMES), "more"], [1.0] * 41)
    found = difference(before, after)
    assert (found.before, found.after, found.items) == (0.5, 1.0, 40)
    assert 0.3 < found.interval[0] < 0.5 < found.interval[1] < 0.7
    assert found.certain
    same = difference(before, before)
    assert (same.value, same.interval, same.certain) == (0.0, (0.0, 0.0), False)
    assert difference(before, Score.mean(["other"], [1.0])) is None
    twice = Score.mean(["a", "a", "b"], [0.0, 1.0, 1.0])  # ids need not be unique
    assert difference(twice, twice).items == 3
    assert difference(twice, twice).value == 0
    few = difference(Score.mean(NAMES[:9], [0.0] * 9), Score.mean(NAMES[:9], [1.0] * 9))
    assert few.interval == (1.0, 1.0)
    assert not few.certain


def test_pairing_finds_what_two_intervals_would_hide():
    hard = np.random.default_rng(0).normal(0, 1, 40)
    before, after = Score.mean(NAMES, hard), Score.mean(NAMES, hard + 0.05)
    assert before.interval()[1] > after.interval()[0]
    assert difference(before, after).certain


def records(change=0.0, **settings):
    score = Score.mean(NAMES, [float(i % 2) + change for i in range(40)], failed={"bad": "too short"})
    return Records({"seed": 0, "out": str(change), **settings}, {"data": "a"}, {"lm.figure": score}, {"lm.bits": 1.0})


def test_records_are_read_again_as_they_were_written(tmp_path):
    written = records()
    written.save(tmp_path)
    assert Records.load(tmp_path) == written
    figure = json.loads((tmp_path / "records.json").read_text())["figures"]["lm.figure"]
    assert (figure["value"], figure["n"], figure["failures"]) == (0.5, 40, 1)
    assert figure["interval"] == list(written.scores["lm.figure"].interval())
    path = tmp_path / "records.json"
    old = json.loads(path.read_text())
    del old["figures"]["lm.figure"]["groups"]  # as records were before there were groups
    path.write_text(json.dumps(old))
    assert Records.load(tmp_path) == written
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"lm.bits": 1.0, "lm.figure": 0.5}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 0}', '{"format": 1, "figures": {"a": 1}}'])
def test_what_is_no_record_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "records.json").write_text(content)
    with pytest.raises(AnyglotError, match=r"records\.json"):
        Records.load(tmp_path)


def test_a_setting_hides_no_fingerprint_of_the_same_name():
    before, after = records(documents=["a.jsonl"]), records(documents=["b.jsonl"])
    before.fingerprints["documents"] = after.fingerprints["documents"] = "the same"
    assert comparison.compare(before, after).unlike == {"documents": (["a.jsonl"], ["b.jsonl"])}
    before, after = records(documents=["a.jsonl"]), records(documents=["a.jsonl"])
    before.fingerprints |= {"documents": "old", "checkpoint": "one"}
    after.fingerprints |= {"documents": "new", "checkpoint": "other"}
    after.versions = before.versions | {"torch": "0"}
    unlike = comparison.compare(before, after).unlike
    assert unlike.pop("version of torch") == (before.versions["torch"], "0")
    assert unlike == {"fingerprint of documents": ("old", "new")}


def test_a_comparison_tells_what_else_is_not_alike(tmp_path, capsys):
    records().save(tmp_path / "a")
    other = records(0.5, seed=1)
    other.values["lm.new"] = 2.0
    other.save(tmp_path / "b")
    comparison.show(tmp_path / "a", tmp_path / "b")
    printed = capsys.readouterr().out
    assert "+0.5" in printed
    assert "seed: 0 and 1" in printed
    assert "In one of them alone: lm.new" in printed
    assert "out:" not in printed
    with pytest.raises(AnyglotError, match="no figure in common"):
        comparison.compare(records(), Records({}, {}))


def test_a_fingerprint_is_of_contents_in_order(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    a, b = tmp_path / "a", tmp_path / "b"
    assert fingerprint_of([a, b]) == fingerprint_of([a, b]) != fingerprint_of([b, a])
    with pytest.raises(AnyglotError, match="missing"):
        fingerprint_of([tmp_path / "missing"])
