"""The codes that there are, where most stand for nothing: which may follow which."""

import numpy as np

from anyglot.errors import AnyglotError

Prefix = tuple[int, ...]


class Trie:
    """Which codes may follow which, for codes int `[n, levels]`. Kept as a sorted table: a prefix is a run of rows."""

    def __init__(self, codes: np.ndarray) -> None:
        if codes.ndim != 2 or not codes.size:
            raise AnyglotError(f"a trie needs codes [n, levels] of one medium or more, got {list(codes.shape)}")
        self.codes = np.unique(codes, axis=0)
        self._children: dict[Prefix, np.ndarray] = {}
        self._rows: dict[Prefix, tuple[int, int]] = {(): (0, len(self.codes))}

    def __len__(self) -> int:
        return len(self.codes)

    def children(self, prefix: Prefix) -> np.ndarray:
        """The codes int `[k]` that may follow a prefix, rising; none after one that does not occur, or a whole code."""
        if prefix not in self._children:
            low, high = self._range(prefix)
            last = len(prefix) == self.codes.shape[1]
            self._children[prefix] = np.unique(self.codes[low:high, len(prefix)]) if not last else self.codes[:0, 0]
        return self._children[prefix]

    def without(self, codes: np.ndarray) -> "Trie":
        """The trie of all other codes. Raises AnyglotError if none is left."""
        gone = set(map(tuple, codes.tolist()))
        return Trie(self.codes[[tuple(code) not in gone for code in self.codes.tolist()]])

    def _range(self, prefix: Prefix) -> tuple[int, int]:
        """The rows of the table that begin with a prefix."""
        if prefix not in self._rows:
            low, high = self._range(prefix[:-1])
            column = self.codes[low:high, len(prefix) - 1]
            first, past = np.searchsorted(column, prefix[-1]), np.searchsorted(column, prefix[-1], "right")
            self._rows[prefix] = (low + int(first), low + int(past))
        return self._rows[prefix]
