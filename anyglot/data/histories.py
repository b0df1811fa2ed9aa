"""Who chose what, and when: chronological histories of items, cut for leave-one-out evaluation.

Of each history the last item is the test's, the one before it the validation's; the rest is for training. Nothing that
is learned, collaborative vectors among it, sees more than that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyglot.data.atomic import Column
from anyglot.errors import AnyglotError

HELD = 2  # items at the end of a history that training does not see


@dataclass
class Histories:
    """items: ids of the catalogue. users: ids. of: for each user the places of its items in `items`, oldest first."""

    items: list[str]
    users: list[str]
    of: list[np.ndarray]

    def training(self) -> Iterator[np.ndarray]:
        """What training may see of each history."""
        return (history[:-HELD] for history in self.of)


def make_histories(interactions: Mapping[str, Column], items: Sequence[str], name: str, shortest: int = 3) -> Histories:
    """Sort interactions (columns user_id, item_id, timestamp) into histories.

    Args:
        items: ids of the catalogue. name: of the file, for messages. shortest: users with fewer interactions are left
            out. Those of one time stay in the order of the file; a later one with the same item is left out.
    Raises AnyglotError for an item that the catalogue does not have, an id that occurs twice in it, times that are no
    finite numbers, or no user.
    """
    place = {item: index for index, item in enumerate(items)}
    if len(place) < len(items):
        twice = next(item for index, item in enumerate(items) if place[item] != index)
        raise AnyglotError(f"item {twice!r} occurs twice in the catalogue; keep one of them")
    unknown = next((item for item in interactions["item_id"] if item not in place), None)
    if unknown is not None:
        raise AnyglotError(f"{name}: item {unknown!r} is not in the catalogue of {len(items)}; add it, or its rows out")
    chosen = np.array([place[item] for item in interactions["item_id"]], dtype=np.int64)
    times = np.array(interactions["timestamp"])
    if times.dtype.kind not in "fi" or not np.isfinite(times).all():  # text would sort as text: 10 before 9
        raise AnyglotError(f"{name}: timestamp must be finite numbers, 'timestamp:float'; mend its header or its cells")
    rows: dict[str, list[int]] = {}
    for row in np.argsort(times, kind="stable").tolist():
        rows.setdefault(interactions["user_id"][row], []).append(row)
    of = {user: np.array(list(dict.fromkeys(chosen[found].tolist()))) for user, found in rows.items()}
    users = sorted((user for user in of if len(of[user]) >= shortest), key=lambda user: (len(user), user))
    if not users:
        raise AnyglotError(f"{name}: no user has {shortest} interactions or more; nothing is left to train on")
    return Histories(list(items), users, [of[user] for user in users])


def windows(length: int, size: int, step: int) -> list[tuple[int, int]]:
    """`[start, stop)` of pieces of a history: its last `size`, and others each `step` further back, to its start."""
    found = []
    for stop in range(length, 0, -step):
        found.append((max(0, stop - size), stop))
        if stop <= size:
            break
    return found


def collaborative_vectors(histories: Histories, width: int) -> np.ndarray:
    """What training users say of items: float32 [items, width], the leading axes of their PPMI.

    Items that the same users chose lie close (Levy and Goldberg, NeurIPS 2014); one that no training history has is 0.
    Raises AnyglotError for a width that is not below the number of items, or if no two items were chosen together.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    if width >= len(histories.items):
        raise AnyglotError(f"collaborative: {len(histories.items)} items give no {width} axes; set a smaller width")
    rows = np.concatenate([np.full(len(h), user) for user, h in enumerate(histories.training())])
    columns = np.concatenate(list(histories.training()))
    chosen = csr_matrix((np.ones(len(rows)), (rows, columns)), (len(histories.users), len(histories.items)))
    weighted = chosen.multiply(1 / np.asarray(chosen.sum(1)).clip(1))  # a user who chose much says less by each
    together = (weighted.T @ chosen).toarray()
    np.fill_diagonal(together, 0)
    if not together.any():
        raise AnyglotError("collaborative: no training history holds two items; longer histories are needed")
    totals = together.sum(1, keepdims=True)
    expected = totals @ together.sum(0, keepdims=True) / together.sum()
    ppmi = np.log(np.maximum(together, 1e-12) / np.maximum(expected, 1e-12)).clip(min=0)
    symmetric = (ppmi + ppmi.T) / 2
    left, values, _ = svds(symmetric, k=width, v0=np.ones(len(symmetric)))
    vectors = left * np.sqrt(values)
    return (vectors * np.sign(vectors.sum(0, keepdims=True) + 1e-12)).astype(np.float32)
