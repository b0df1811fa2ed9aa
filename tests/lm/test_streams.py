"""Streams: every order is a permutation with an exact inverse, and its stepwise form says the same order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyglot.errors import ConfigError, GrammarError
from anyglot.lm.streams import CLOSE, STREAMS, Frames, cells, factor, flatten, stream_named, unfactor, unflatten

GRIDS = st.lists(st.integers(1, 4), max_size=3)


@pytest.mark.parametrize("name", STREAMS)
@given(grid=GRIDS, levels=st.integers(1, 5))
def test_flatten_has_an_exact_inverse(name: str, grid: list[int], levels: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (*grid, levels))
    level, line = flatten(stream_named(name), codes)
    assert np.array_equal(unflatten(stream_named(name), line, grid, levels), codes)
    cell = cells(stream_named(name), grid, levels)
    assert np.array_equal(codes.reshape(-1, levels)[cell, level], line)
    assert sorted(zip(cell.tolist(), level.tolist(), strict=True)) == sorted(np.ndindex(codes.size // levels, levels))


@given(grid=GRIDS, bases=st.lists(st.integers(2, 7), min_size=1, max_size=3), factors=st.integers(1, 3))
def test_factoring_has_an_exact_inverse(grid: list[int], bases: list[int], factors: int) -> None:
    levels = [base**factors for base in bases]
    codes = np.stack([np.random.default_rng(0).integers(0, size, grid) for size in levels], axis=-1)
    digits = factor(codes, levels, factors)
    assert digits.shape == (*grid, len(levels) * factors)
    assert (digits < np.repeat(bases, factors)).all()
    assert np.array_equal(unfactor(digits, levels, factors), codes)


def test_a_code_of_18_bits_is_two_of_9() -> None:
    """MAGVIT-v2's: the upper half of the bits, then the lower."""
    code = np.array([[0b101010101_000000011]])
    assert factor(code, [2**18], 2).tolist() == [[0b101010101, 0b000000011]]
    assert unfactor(np.array([[0b101010101, 3]]), [2**18], 2).tolist() == code.tolist()


def test_orders_by_hand() -> None:
    picture = np.array([[[1, 10], [2, 20]], [[3, 30], [4, 40]]])  # [height 2, width 2, levels 2]
    level, line = flatten(stream_named("frame"), picture)
    assert line.tolist() == [1, 10, 2, 20, 3, 30, 4, 40]
    assert level.tolist() == [0, 1] * 4
    level, line = flatten(stream_named("level"), picture)
    assert line.tolist() == [1, 2, 3, 4, 10, 20, 30, 40]
    assert level.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("name", STREAMS)
@given(
    frames=st.integers(1, 4),
    row=st.integers(1, 3),
    levels=st.integers(1, 4),
    more=st.integers(0, 2),
    known=st.booleans(),
)
def test_choices_say_the_same_order(name: str, frames: int, row: int, levels: int, more: int, known: bool) -> None:
    """Following the choices that the order makes leads to the closer after exactly its last code, and not before."""
    stream = stream_named(name)
    order = stream.order(frames, row, levels) % levels
    limit, settled = frames + more, frames if known else 0
    for count, level in enumerate(order.tolist()):
        choices = stream.choices(count, row, settled, limit, levels)
        assert level in choices
        if known:
            assert choices == (level,)
        if CLOSE in choices:
            assert count > 0
            assert name == "delay" or count % (row * levels) == 0
        settled = stream.settle(count, row, settled, level, levels)
    last = stream.choices(len(order), row, settled, limit, levels)
    assert CLOSE in last
    assert last == (CLOSE,) or (settled == 0 and more > 0), (
        "at its limit and where its length is known a span must close"
    )


@pytest.mark.parametrize("name", STREAMS)
@given(
    grid=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    levels=st.integers(1, 4),
    sizes=st.lists(st.integers(0, 9), max_size=20),
)
def test_frames_come_as_soon_as_they_are_whole(name: str, grid: list[int], levels: int, sizes: list[int]) -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (*grid, levels))
    level, line = flatten(stream_named(name), codes)
    frame = cells(stream_named(name), grid, levels) // (codes[0].size // levels)
    frames, given_so_far, start = Frames(grid[1:], levels), [codes[:0]], 0
    for size in [*sizes, codes.size]:
        end = min(start + size, codes.size)
        given_so_far.append(frames.feed(level[start:end].tolist(), line[start:end].tolist()))
        lacking = set(frame[end:].tolist())
        whole = min(lacking, default=grid[0])
        assert np.array_equal(np.concatenate(given_so_far), codes[:whole])
        start = end


def test_wrong_lengths_and_names_are_refused() -> None:
    with pytest.raises(GrammarError, match="7 codes do not fill a grid of \\[2, 2\\] with 2 levels"):
        unflatten(stream_named("frame"), np.arange(7), [2, 2], 2)
    with pytest.raises(ConfigError, match="no stream 'dely'; there are: frame, level, delay"):
        stream_named("dely")
    with pytest.raises(ConfigError, match="codes of 1000 are not 2 sub-codes of one size"):
        factor(np.zeros((3, 1), int), [1000], 2)
