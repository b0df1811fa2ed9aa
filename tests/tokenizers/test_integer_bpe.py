"""BPE of integers against a slow twin that counts and merges anew each time."""

import itertools

import numpy as np
import pytest

from anyglot.errors import AnyglotError
from anyglot.tokenizers.integer_bpe import IntegerBPE, train


def merged(tokens, pair, new):
    """`pair` joined to `new` wherever it occurs, from left to right."""
    out, place = [], 0
    while place < len(tokens):
        joined = tuple(tokens[place : place + 2]) == pair
        out.append(new if joined else tokens[place])
        place += 2 if joined else 1
    return out


def slow_merges(sequences, alphabet, size, min_count, longest):
    sequences, merges, lengths = [sequence.tolist() for sequence in sequences], [], [1] * alphabet
    while alphabet + len(merges) < size:
        counts = {}
        for pair in (pair for sequence in sequences for pair in itertools.pairwise(sequence)):
            if not longest or lengths[pair[0]] + lengths[pair[1]] <= longest:
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            break
        sequences = [merged(sequence, best, alphabet + len(merges)) for sequence in sequences]
        merges.append(best)
        lengths.append(lengths[best[0]] + lengths[best[1]])
    return merges


def slow_encode(bpe, symbols):
    tokens = symbols.tolist()
    for rank, pair in enumerate(bpe.merges):
        tokens = merged(tokens, pair, bpe.alphabet + rank)
    return tokens


@pytest.mark.parametrize("seed", range(60))
def test_merges_and_tokens_are_those_of_the_slow_twin(seed):
    generator = np.random.default_rng(seed)
    alphabet = int(generator.integers(1, 5))  # few symbols: long runs, overlapping pairs
    sequences = [generator.integers(0, alphabet, generator.integers(60)) for _ in range(8)]
    if seed % 2:
        sequences = [np.minimum(s, generator.integers(0, alphabet, len(s))) for s in sequences]
    longest = 5 * (seed % 3 == 0)
    bpe = train(sequences, alphabet, alphabet + int(generator.integers(40)), min_count=2, longest=longest)
    assert bpe.merges == slow_merges(sequences, alphabet, bpe.size, 2, longest)
    if longest:
        assert max(map(len, bpe.expansions)) <= longest
    unseen = [generator.integers(0, alphabet, generator.integers(90)) for _ in range(10)]
    for symbols in sequences + unseen + [np.zeros(n, dtype=np.int64) for n in range(20)]:
        tokens = bpe.encode(symbols)
        assert tokens.tolist() == slow_encode(bpe, symbols)
        np.testing.assert_array_equal(bpe.decode(tokens), symbols)


def test_stops_where_pairs_are_rare():
    text = np.array([0, 1, 0, 1, 0, 1, 2])
    assert train([text], 3, 100, min_count=3).merges == [(0, 1)]
    assert train([text], 3, 4).size == 4
    assert train([], 3, 9).size == 3


def test_what_is_not_there_is_an_error():
    bpe = IntegerBPE(3, [(0, 1)])
    for wrong in (-1, 3):
        with pytest.raises(AnyglotError, match=r"lie in 0 .. 2"):
            bpe.encode(np.array([0, wrong]))
        with pytest.raises(AnyglotError, match=r"lie in 0 .. 2"):
            train([np.array([0, wrong])], 3, 10)
    with pytest.raises(AnyglotError, match="4 tokens"):
        bpe.decode(np.array([4]))
    with pytest.raises(AnyglotError, match="not there yet"):
        IntegerBPE(3, [(0, 3)])
