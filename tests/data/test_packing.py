import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.data.packing import best_fit_decreasing, cut, make_plan, pack_plan
from anyglot.data.shards import ShardInfo, TokenStore, write_shard
from anyglot.errors import AnyglotError
from anyglot.lm.grammar import Grammar, Span, Turn
from tests.data.fakes import random_document, text_document, vocabulary


def slow_best_fit_decreasing(lengths, capacity):
    """The textbook, one item at a time. Returns the space left in each bin."""
    spaces = []
    for length in sorted(lengths, reverse=True):
        fitting = [(space, bin) for bin, space in enumerate(spaces) if space >= length]
        if fitting:
            spaces[min(fitting)[1]] -= length
        else:
            spaces.append(capacity - length)
    return spaces


@st.composite
def items(draw):
    capacity = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(1, capacity), max_size=60)), capacity


@given(items())
@settings(max_examples=200, deadline=None)
def test_equals_the_textbook(case):
    lengths, capacity = case
    bins, number = best_fit_decreasing(np.array(lengths, dtype=np.int64), capacity)
    filled = np.bincount(bins, weights=lengths, minlength=number) if lengths else []
    assert sorted(capacity - int(n) for n in filled) == sorted(slow_best_fit_decreasing(lengths, capacity))


@st.composite
def documents(draw):
    """A row length, and documents as (length, spans)."""
    made = []
    for _ in range(draw(st.integers(1, 20))):
        position, spans = 1, []
        for gap, size in draw(st.lists(st.tuples(st.integers(0, 6), st.integers(2, 14)), max_size=5)):
            spans.append((position + gap, size))
            position += gap + size
        made.append((position + draw(st.integers(1, 30)), spans))
    return draw(st.integers(8, 40)), made


@given(documents(), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_every_token_once_and_no_span_cut(case, seed):
    row, made = case
    lengths = np.array([length for length, _ in made])
    plan = make_plan(lengths, lambda index: made[index][1], row, seed)
    assert set(plan.dropped.tolist()) == {
        i for i, (n, spans) in enumerate(made) if n > row and any(s > row for _, s in spans)
    }
    covered = {i: np.zeros(n, dtype=int) for i, (n, _) in enumerate(made) if i not in plan.dropped}
    for document, start, stop in zip(plan.documents, plan.starts, plan.stops, strict=True):
        covered[document][start:stop] += 1
        for at, size in made[document][1]:
            assert not at < start < at + size
            assert not at < stop < at + size
    assert all((count == 1).all() for count in covered.values())
    fill = np.add.reduceat(plan.stops - plan.starts, plan.offsets[:-1]) if plan.rows else np.zeros(0)
    assert (fill <= row).all()
    assert (np.diff(plan.offsets) > 0).all()
    if plan.rows:
        assert plan.padding == pytest.approx(1 - fill.sum() / (plan.rows * row))


def test_cut_takes_as_much_as_fits():
    assert cut(25, [], 10) == [(0, 10), (10, 20), (20, 25)]
    assert cut(25, [(8, 5)], 10) == [(0, 8), (8, 18), (18, 25)]
    assert cut(25, [(2, 10), (12, 10)], 10) == [(0, 2), (2, 12), (12, 22), (22, 25)]
    assert cut(25, [(2, 11)], 10) is None


@pytest.fixture
def store(tmp_path):
    words = vocabulary()
    words.save(tmp_path)
    info = ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names))
    made = [random_document(Grammar(words), seed) for seed in range(40)] + [text_document(Grammar(words), 300)]
    write_shard(tmp_path / "000000.arrow", [(str(n), d) for n, d in enumerate(made)], info)
    return TokenStore(tmp_path)


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("documents", "starts", "stops", "offsets"))


def test_plan_is_cached_by_store_length_and_seed(store):
    plan = pack_plan(store, 64, 1)
    (cached,) = (store.directory / "plans").iterdir()
    before = cached.stat().st_mtime_ns
    assert same(pack_plan(store, 64, 1), plan)
    assert cached.stat().st_mtime_ns == before
    assert not same(pack_plan(store, 64, 2), plan)
    pack_plan(store, 80, 1)
    assert len(list((store.directory / "plans").iterdir())) == 3


def test_a_damaged_cache_is_made_again(store, caplog):
    plan = pack_plan(store, 64)
    (cached,) = (store.directory / "plans").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    assert same(pack_plan(store, 64), plan)
    assert "made again" in caplog.text


def test_a_store_that_fits_no_row_is_refused(store, tmp_path):
    words = store.vocabulary
    image = Grammar(words).serialise([Turn(None, [Span("image", np.zeros((8, 8, 1), np.int64))])])
    info = ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names))
    write_shard(tmp_path / "big" / "000000.arrow", [("x", image)], info)
    with pytest.raises(AnyglotError, match="no document fits into rows of 40"):
        pack_plan(TokenStore(tmp_path / "big", words), 40)


def chat(grammar, *turns):
    """A chat of (role, ids, whether it bears loss)."""
    return grammar.serialise(
        [Turn(role, [Span("text", np.arange(length), learned)]) for role, length, learned in turns]
    )


def test_a_chat_is_cut_only_behind_a_learned_answer(tmp_path):
    words = vocabulary()
    words.save(tmp_path)
    grammar, info = Grammar(words), ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names))
    exchange = [("user", 8, False), ("assistant", 10, True)]
    unlearned = [("user", 8, False), ("assistant", 10, False)]
    made = [
        chat(grammar, ("system", 5, False), *exchange * 3),
        chat(grammar, *unlearned, *exchange),
        chat(grammar, *exchange, ("user", 40, False), ("assistant", 5, True)),
    ]
    write_shard(tmp_path / "000000.arrow", [(str(n), d) for n, d in enumerate(made)], info)
    store = TokenStore(tmp_path)
    assert store.whole_spans(0) == [(0, 30), (30, 22), (52, 23)]  # with bos, marks of turns, and eos
    assert store.whole_spans(1) == [(0, 46)]
    assert store.whole_spans(2) == [(0, 23), (23, 50)]
    plan = make_plan(store.lengths, store.whole_spans, 52, 0)
    pieces = sorted(zip(plan.documents.tolist(), plan.starts.tolist(), plan.stops.tolist(), strict=True))
    assert pieces == [(0, 0, 52), (0, 52, 75), (1, 0, 46), (2, 0, 23), (2, 23, 73)]
    assert make_plan(store.lengths, store.whole_spans, 48, 0).dropped.tolist() == [2]
