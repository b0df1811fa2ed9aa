"""Byte-pair encoding of integers: no characters, no pre-splitting (Gage 1994; Sennrich et al., arXiv:1508.07909).

Symbols are 0 .. alphabet - 1. Merge k joins two tokens into token alphabet + k; merges apply in the order in which they
were learned, each from left to right. FAST's action chunks and PRISE's skills are such strings.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from anyglot.errors import AnyglotError

Pair = tuple[int, int]
NONE = -1


class IntegerBPE:
    """An alphabet and what is merged in it. merges: pairs of tokens, each of symbols or of earlier merges."""

    def __init__(self, alphabet: int, merges: Sequence[Pair]) -> None:
        self.alphabet = alphabet
        self.merges = list(merges)
        self.expansions: list[tuple[int, ...]] = [(symbol,) for symbol in range(alphabet)]
        for left, right in self.merges:
            if not (0 <= left < len(self.expansions) and 0 <= right < len(self.expansions)):
                raise AnyglotError(f"merge {len(self.expansions)} joins ({left}, {right}), which are not there yet")
            self.expansions.append(self.expansions[left] + self.expansions[right])
        self._halves = [(token, token) for token in range(alphabet)] + self.merges
        self._merged = {pair: alphabet + rank for rank, pair in enumerate(self.merges)}
        self._fits: dict[Pair, bool] = {}
        self._children, self._ends = _trie(self.expansions)
        self._shorter = self._longest_prefixes()
        # Flat expansions: those of token t are flat[starts[t] : starts[t + 1]].
        self._lengths = np.array([len(expansion) for expansion in self.expansions])
        self._reach = int(self._lengths.max())
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        self._flat = np.array([symbol for expansion in self.expansions for symbol in expansion], dtype=np.int64)

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.expansions)

    def encode(self, symbols: np.ndarray) -> np.ndarray:
        """Tokens int64 [m] of symbols int64 [n]: what merging in the learned order would give.

        That is the one way to cut the symbols into tokens of which no two neighbours would have been merged otherwise,
        so it is found from left to right, the longest token first, going back where none follows.
        Raises AnyglotError for a symbol outside the alphabet.
        """
        if len(symbols) and not (symbols.min() >= 0 and symbols.max() < self.alphabet):
            raise AnyglotError(
                f"symbols of an alphabet of {self.alphabet} lie in 0 .. {self.alphabet - 1}, "
                f"got {symbols.min()} .. {symbols.max()}"
            )
        text: list[int] = symbols.tolist()
        tokens: list[int] = []
        dead: set[int] = set()  # places from which nothing leads to the end
        place, token = 0, self._longest(text, 0)
        while place < len(text):
            while token != NONE:
                end = place + len(self.expansions[token])
                if end not in dead and (not tokens or self._fit(tokens[-1], token)):
                    break
                token = self._shorter[token]
            if token != NONE:
                tokens.append(token)
                place = end
                token = self._longest(text, place)
            else:
                dead.add(place)
                last = tokens.pop()
                place -= len(self.expansions[last])
                token = self._shorter[last]
        return np.array(tokens, dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Symbols int64 [n] of tokens int64 [m]. Raises AnyglotError for a token that is not there."""
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self.size):
            raise AnyglotError(f"there are {self.size} tokens, got {tokens.min()} .. {tokens.max()}")
        lengths = self._lengths[tokens]
        before = np.cumsum(lengths) - lengths
        return self._flat[np.arange(lengths.sum()) + np.repeat(self._starts[tokens] - before, lengths)]

    def _longest(self, text: list[int], place: int) -> int:
        """The longest token that the text goes on with at `place`."""
        node, found, children, ends = 0, NONE, self._children, self._ends
        for symbol in text[place : place + self._reach]:
            node = children.get((node, symbol), NONE)
            if node == NONE:
                break
            if ends[node] != NONE:
                found = ends[node]
        return found

    def _longest_prefixes(self) -> list[int]:
        """Of each token the longest other token that it begins with."""
        found = []
        for expansion in self.expansions:
            node, best = 0, NONE
            for symbol in expansion[:-1]:
                node = self._children[node, symbol]
                best = self._ends[node] if self._ends[node] != NONE else best
            found.append(best)
        return found

    def _fit(self, left: int, right: int) -> bool:
        """Whether merging leaves this cut: no pair across it would have been merged before its two sides were whole."""
        pair = (left, right)
        if pair not in self._fits:
            self._fits[pair] = self._stays_cut(left, right)
        return self._fits[pair]

    def _stays_cut(self, left: int, right: int) -> bool:
        before = self.size  # merges with a token below this one happen while `left` and `right` lie at the cut
        while True:
            if self._merged.get((left, right), before) < before:
                return False
            # Undo the later of the two merges; of the same merge the right one, which was made after the left.
            if left > right and left >= self.alphabet:
                before, left = left, self._halves[left][1]
            elif right >= self.alphabet:
                before, right = right + 1, self._halves[right][0]
            else:
                return True


def train(
    sequences: Sequence[np.ndarray], alphabet: int, size: int, min_count: int = 2, longest: int = 0
) -> IntegerBPE:
    """Learn merges from sequences of symbols, each int64 [n], until there are `size` tokens.

    The most frequent pair of neighbours is merged, of equally frequent ones the lowest. min_count: rarer pairs are not
    merged. longest: tokens of more symbols are not made, 0 for any. Raises AnyglotError for a bad symbol.
    """
    ends = np.full(1, NONE)
    text = np.concatenate([ends, *(part for sequence in sequences for part in (sequence, ends))]).astype(np.int64)
    if text.max() >= alphabet or min((sequence.min() for sequence in sequences if len(sequence)), default=0) < 0:
        raise AnyglotError(f"symbols of an alphabet of {alphabet} lie in 0 .. {alphabet - 1}")
    tokens: list[int] = text.tolist()
    following, previous = list(range(1, len(tokens) + 1)), list(range(-1, len(tokens) - 1))
    counts: dict[Pair, int] = defaultdict(int)
    places: dict[Pair, list[int]] = defaultdict(list)

    def add(place: int) -> None:
        pair = tokens[place], tokens[following[place]]
        if NONE not in pair:
            counts[pair] += 1
            places[pair].append(place)
            touched.add(pair)

    def remove(place: int) -> None:
        pair = tokens[place], tokens[following[place]]
        if NONE not in pair:
            counts[pair] -= 1

    touched: set[Pair] = set()
    for place in range(len(tokens) - 1):
        add(place)
    heap = [(-counts[pair], pair) for pair in touched]
    heapq.heapify(heap)
    lengths = [1] * alphabet
    merges: list[Pair] = []
    while heap and alphabet + len(merges) < size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # it became rarer since
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -count < min_count:
            break
        length = lengths[pair[0]] + lengths[pair[1]]
        if longest and length > longest:
            continue
        touched = set()
        for place in sorted(places.pop(pair)):
            right = following[place]
            if tokens[place] != pair[0] or right >= len(tokens) or tokens[right] != pair[1]:
                continue  # a merge took one of the two
            remove(previous[place])
            remove(place)
            remove(right)
            tokens[place], tokens[right] = alphabet + len(merges), NONE - 1
            following[place] = following[right]
            previous[following[place]] = place
            add(previous[place])
            add(place)
        merges.append(pair)
        lengths.append(length)
        for new in touched:
            heapq.heappush(heap, (-counts[new], new))
    return IntegerBPE(alphabet, merges)


def _trie(words: Sequence[tuple[int, ...]]) -> tuple[dict[Pair, int], list[int]]:
    """Where (node, symbol) leads, from node 0; and which word ends at each node, NONE if none."""
    children: dict[Pair, int] = {}
    ends = [NONE]
    for index, word in enumerate(words):
        node = 0
        for symbol in word:
            node = children.setdefault((node, symbol), len(ends))
            if node == len(ends):
                ends.append(NONE)
        ends[node] = index
    return children, ends
