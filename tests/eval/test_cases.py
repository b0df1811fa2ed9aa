"""Which items are best and worst, and which of them are written as samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyglot.eval.cases import Case, by_direction, direction_of, extremes, lower_is_better, ranked
from anyglot.eval.samples import choose
from anyglot.eval.scores import Score


@pytest.mark.parametrize("name", ["lm.text_to_speech.wer_seen", "lm.bits_per_image_code_heldout", "image.fd_efflite0"])
def test_less_is_better(name):
    assert lower_is_better(name)


@pytest.mark.parametrize("name", ["lm.text_to_image.psnr_seen", "coco.cider_d", "a.wer.exact", "recall@10", "answered"])
def test_more_is_better(name):
    assert not lower_is_better(name)


def test_a_figure_is_of_a_direction():
    assert direction_of("lm.text_to_image.psnr_seen") == ("lm.text_to_image.seen", "psnr")
    assert direction_of("lm.bits_per_text_token_heldout") == ("lm.heldout", "bits_per_text_token")
    assert direction_of("geneval.colors") == ("geneval", "colors")
    assert direction_of("recall@10") == ("", "recall@10")


def test_figures_of_other_items_are_not_mixed():
    whole, part, other = Score.mean(["a", "b"], [0, 1]), Score.mean(["b"], [2]), Score.mean(["c"], [3])
    failed = Score.mean(["a"], [1], failed={"b": "too short"})
    scores = {"x.exact_seen": whole, "x.psnr_seen": part, "x.bits_seen": other, "y.stoi": failed, "y.wer": whole}
    found = by_direction(scores)
    assert {key: list(figures) for key, figures in found.items()} == {
        "x.seen": ["x.exact_seen", "x.psnr_seen"],
        "x.bits_seen": ["x.bits_seen"],
        "y": ["y.stoi", "y.wer"],
    }


def test_the_main_figure_ranks_and_the_others_break_ties():
    exact = Score.mean(["a", "b", "c", "d", "b"], [1, 0, 1, 0, 1])
    error = Score.mean(["a", "b", "c", "b"], [9.0, 4.0, 1.0, 4.0], scale="psnr")  # none of d, which is worst therefore
    cases = ranked({"x.exact": exact, "x.psnr": error})
    assert [(case.id, case.nth) for case in cases] == [("c", 0), ("b", 1), ("a", 0), ("b", 0), ("d", 0)]
    assert cases[0].figures == {"x.exact": 1.0, "x.psnr": pytest.approx(10 * np.log10(255**2))}
    assert cases[-1].figures == {"x.exact": 0.0}
    words = Score(["a", "b", "c"], [2, 1, 0], [4, 1, 0])  # nothing can be said of c
    assert ranked({"wer": words}) == [Case("a", 0, {"wer": 0.5}), Case("b", 0, {"wer": 1.0})]
    assert ranked({}) == []


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 5))
def test_extremes_are_apart(values, number):
    cases = ranked({"wer": Score.mean([str(place) for place in range(len(values))], values)})
    best, worst = extremes(cases, number)
    assert not {case.id for case in best} & {case.id for case in worst}
    if number and len(set(values)) > 1:
        assert len(best) == len(worst) == min(number, len(values) // 2)
        assert best[0].figures["wer"] == min(values)
        assert worst[0].figures["wer"] == max(values)
    else:
        assert best == worst == []


def test_the_first_are_shown_and_the_best_and_worst():
    ids = ["a", "b", "c", "b", "d", "e"]
    scores = {"exact": Score.mean(ids, [0.5, 0.5, 0.5, 1.0, 0.0, 0.5])}
    assert choose(ids, scores, 2) == [(0, 0), (1, 0), (3, 1), (4, 0)]
    assert choose(ids, {}, 2) == [(0, 0), (1, 0)]
    assert choose(["a", "c", "d"], scores, 2) == [(0, 0), (1, 0), (2, 0)]  # the best b is not here
    assert choose(ids, scores, 0) == []
