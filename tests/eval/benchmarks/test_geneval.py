"""GenEval: the score by hand, and results that cannot be of these prompts."""

import json

import pytest

from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.benchmarks.geneval import run, score

PROMPTS = [
    {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of two dogs"},
    {"tag": "counting", "include": [{"class": "cat", "count": 3}], "prompt": "a photo of three cats"},
    {"tag": "colors", "include": [{"class": "kite", "count": 1, "color": "red"}], "prompt": "a photo of a red kite"},
]


def line(prompt, picture, correct, tag=None):
    tag = tag or PROMPTS[prompt]["tag"]
    return {"filename": f"images/{prompt:05d}/samples/{picture:04d}.png", "tag": tag, "correct": correct}


def results(tmp_path, lines):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_the_score_is_the_mean_over_tags_not_over_pictures(tmp_path):
    # counting: 1 of 4; colours: 2 of 2
    right = [(0, 0, True), (0, 1, False), (1, 0, False), (1, 1, False), (2, 0, True), (2, 1, True)]
    found = score(results(tmp_path, [line(*one) for one in right]), PROMPTS, per_prompt=2)
    assert found["geneval.score"].value == pytest.approx((1 / 4 + 1) / 2)
    assert found["geneval.images"].value == pytest.approx(3 / 6)
    assert found["geneval.prompts"].value == pytest.approx(2 / 3)
    assert found["geneval.counting"].value == 0.25
    assert found["geneval.colors"].value == 1.0
    low, high = found["geneval.score"].interval()
    assert low < found["geneval.score"].value <= high
    assert all(not one.failed for one in found.values())


def test_intervals_are_of_prompts_not_of_their_pictures(tmp_path):
    """Four pictures of a prompt that are all right or all wrong say no more than one."""
    prompts = [{"tag": f"tag {n % 2}", "prompt": "x"} for n in range(20)]
    lines = [line(n, picture, n % 3 > 0, prompts[n]["tag"]) for n in range(20) for picture in range(4)]
    found = score(results(tmp_path, lines), prompts, per_prompt=4)
    single = score(results(tmp_path, lines[::4]), prompts, per_prompt=1)
    for name in ("geneval.score", "geneval.images", "geneval.prompts", "geneval.tag 0", "geneval.tag 1"):
        assert found[name].interval() == pytest.approx(single[name].interval())


def test_pictures_that_nobody_looked_at_are_counted_and_in_no_mean(tmp_path):
    found = score(results(tmp_path, [line(2, 0, True), line(0, 1, True)]), PROMPTS, per_prompt=2)
    assert found["geneval.score"].value == 1.0
    assert sorted(found["geneval.score"].failed) == ["00000/00000", "00001/00000", "00001/00001", "00002/00001"]
    assert list(found["geneval.colors"].failed) == ["00002/00001"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(0, 0, True), line(0, 0, True)], "results.jsonl:2: 00000/00000 is there twice"),
        ([line(0, 0, "yes")], "neither true nor false"),
        ([line(2, 0, True, "counting")], "no prompt 2 with tag 'counting'"),
        ([{"filename": "cat.png", "tag": "colors", "correct": True}], "cat.png is not"),
        ([{"tag": "colors", "correct": True}], "'filename' is needed"),
        ([], "no results"),
    ],
)
def test_results_of_something_else_are_refused(tmp_path, lines, message):
    with pytest.raises(AnyglotError, match=message):
        score(results(tmp_path, lines), PROMPTS, per_prompt=2)


def test_pictures_are_written_or_results_scored(tmp_path):
    config = {"kind": "geneval", "out": str(tmp_path), "prompts": "p", "images": "i"}
    with pytest.raises(ConfigError, match=r"model\.checkpoint"):
        run(config, "")
    with pytest.raises(ConfigError, match=r"model\.checkpoint"):
        run(config | {"results": "r", "model": {"checkpoint": "m"}}, "")


def test_a_results_file_is_scored_by_the_command(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PROMPTS))
    path = results(tmp_path, [line(0, 0, True), line(1, 0, False), line(2, 0, False)])
    config = {"kind": "geneval", "out": str(tmp_path / "out"), "prompts": str(tmp_path / "prompts.jsonl")}
    found = run(config | {"images": "unused", "results": str(path), "per_prompt": 1}, "here")
    assert found["geneval.score"] == pytest.approx(0.25)
    record = json.loads((tmp_path / "out" / "records.json").read_text())
    assert record["figures"]["geneval.score"]["n"] == 3
    assert record["fingerprints"].keys() == {"prompts", "results"}
