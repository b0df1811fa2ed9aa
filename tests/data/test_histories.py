"""Histories: their order, what training sees of them, and vectors of who chose what."""

import numpy as np
import pytest

from anyglot.data.histories import Histories, collaborative_vectors, make_histories, windows
from anyglot.errors import AnyglotError


def table(*rows):
    users, items, times = zip(*rows, strict=True)
    return {"user_id": list(users), "item_id": list(items), "timestamp": list(times)}


def test_histories_are_chronological_and_training_stops_before_the_last_two():
    rows = [("u", "c", 3.0), ("v", "a", 1.0), ("u", "a", 1.0), ("u", "b", 1.0), ("u", "a", 9.0), ("u", "d", 2.0)]
    histories = make_histories(table(*rows), ["a", "b", "c", "d"], "x.inter")
    assert histories.users == ["u"]  # v has too few
    assert histories.of[0].tolist() == [0, 1, 3, 2]  # ties as in the file; the second time with "a" is left out
    assert [h.tolist() for h in histories.training()] == [[0, 1]]


def test_mistakes_are_named():
    with pytest.raises(AnyglotError, match="x.inter: item 'z' is not in the catalogue of 1"):
        make_histories(table(("u", "z", 1.0)), ["a"], "x.inter")
    with pytest.raises(AnyglotError, match="item 'a' occurs twice"):
        make_histories(table(("u", "a", 1.0)), ["a", "a"], "x.inter")
    with pytest.raises(AnyglotError, match="no user has 3 interactions"):
        make_histories(table(("u", "a", 1.0)), ["a"], "x.inter")

    for times in (["9", "10", "11"], [1.0, float("nan"), 2.0]):  # text would sort 10 before 9
        with pytest.raises(AnyglotError, match="x.inter: timestamp must be finite numbers"):
            make_histories(
                table(*[("u", item, at) for item, at in zip("abc", times, strict=True)]), list("abc"), "x.inter"
            )


def test_vectors_that_cannot_be_made_are_refused():
    long, short = np.array([0, 1, 2, 3]), np.array([0, 1, 2])
    with pytest.raises(AnyglotError, match="4 items give no 4 axes"):
        collaborative_vectors(Histories(list("abcd"), ["u", "v"], [long, long[::-1]]), 4)
    with pytest.raises(AnyglotError, match="no training history holds two items"):
        collaborative_vectors(Histories(list("abcd"), ["u", "v"], [short, short]), 2)


@pytest.mark.parametrize("length", [1, 5, 49, 50, 51, 75, 120, 700])
def test_windows_cover_a_history_and_are_no_longer_than_asked(length):
    found = windows(length, 50, 25)
    assert {place for start, stop in found for place in range(start, stop)} == set(range(length))
    assert all(0 < stop - start <= 50 for start, stop in found)
    assert found[0][1] == length
    assert len(set(found)) == len(found)


def test_collaborative_vectors_tell_who_is_chosen_together_and_see_training_only():
    generator = np.random.default_rng(0)
    of = [np.concatenate([generator.permutation(10)[:6] + 10 * (user % 2), [20, 21]]) for user in range(30)]
    histories = Histories([str(n) for n in range(22)], [str(n) for n in range(30)], of)
    vectors = collaborative_vectors(histories, 2)
    assert vectors.shape == (22, 2)
    assert vectors.dtype == np.float32
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[:10, :10].mean() > alike[:10, 10:].mean() + 0.5
    np.testing.assert_allclose(vectors[20:], 0, atol=1e-6)  # only ever held out
    changed = [np.concatenate([history[:-2], [21, 20]]) for history in of]
    again = collaborative_vectors(Histories(histories.items, histories.users, changed), 2)
    np.testing.assert_allclose(again, vectors, atol=1e-6)
