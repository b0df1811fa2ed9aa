"""Rows of ids being read by a model, each in its slot and at its own place: plain, or with levels inside a position."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anyglot.inference.cache import KeyValueCache
from anyglot.lm.depth import DepthTransformer


class Reader(Protocol):
    """What a model has read so far in each of its slots."""

    def read(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """More ids of these slots, one or more each; hidden states `[rows, hidden]` after the last of each."""
        ...

    def clear(self, slot: int) -> None:
        """Forget what a slot has read."""
        ...

    def swap(self, one: int, other: int) -> None:
        """Let two slots change places."""
        ...


class PlainReader:
    """An id a position, all rows in one forward."""

    def __init__(self, model: Any, slots: int, length: int) -> None:
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self.cache = KeyValueCache(slots, length)

    def read(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        counts = [len(line) for line in ids]
        padded = pad_sequence([torch.tensor(line) for line in ids], batch_first=True).to(self.device)
        return last_states(hidden_states(self.model, self.cache, slots, padded, counts), counts)

    def clear(self, slot: int) -> None:
        self.cache.clear(slot)

    def swap(self, one: int, other: int) -> None:
        self.cache.swap(one, other)


class DepthReader:
    """Stacks of codes are one position each (`anyglot.lm.depth`): the codes of one that is not whole yet wait.

    Args:
        riders: int64 `[vocabulary]`, see `riders_after`.
    """

    def __init__(self, model: Any, depth: DepthTransformer, riders: Tensor, slots: int, length: int) -> None:
        self.model, self.depth = model, depth
        self.riders = riders.tolist()
        self.embedding = model.get_input_embeddings()
        self.cache = KeyValueCache(slots, length)
        weight = self.embedding.weight
        self.device = weight.device
        self.states = weight.new_zeros(slots, weight.shape[1])  # after the last whole position of each slot
        self.begun: list[list[int]] = [[] for _ in range(slots)]  # ids of a position that is not whole yet

    def read(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        whole = {
            slot: positions for slot, line in zip(slots, ids, strict=True) if (positions := self._fold(slot, line))
        }
        if whole:
            counts = [len(positions) for positions in whole.values()]
            inputs = [torch.stack([self._embed(cell).sum(0) for cell in cells]) for cells in whole.values()]
            hidden = hidden_states(self.model, self.cache, list(whole), pad_sequence(inputs, batch_first=True), counts)
            self.states[list(whole)] = last_states(hidden, counts)
        states = self.states[list(slots)]
        open_rows = [row for row, slot in enumerate(slots) if self.begun[slot]]
        if open_rows:
            cells = [self.begun[slots[row]] for row in open_rows]
            codes = pad_sequence([self._embed(cell) for cell in cells], batch_first=True)
            states[open_rows] = last_states(self.depth(states[open_rows], codes), [len(cell) for cell in cells])
        return states

    def clear(self, slot: int) -> None:
        self.cache.clear(slot)
        self.begun[slot] = []

    def swap(self, one: int, other: int) -> None:
        self.cache.swap(one, other)
        self.states[[one, other]] = self.states[[other, one]]
        self.begun[one], self.begun[other] = self.begun[other], self.begun[one]

    def _fold(self, slot: int, ids: Sequence[int]) -> list[list[int]]:
        """The ids of each position that more ids make whole; those of the last, if it is not, are kept."""
        whole, cell = [], self.begun[slot]
        for token in ids:
            cell = [*cell, token]
            if len(cell) == 1 + self.riders[cell[0]]:
                whole.append(cell)
                cell = []
        self.begun[slot] = cell
        return whole

    def _embed(self, ids: list[int]) -> Tensor:
        embeddings: Tensor = self.embedding(torch.tensor(ids, device=self.device))
        return embeddings


def hidden_states(
    model: Any,
    cache: KeyValueCache,
    slots: Sequence[int],
    inputs: Tensor,
    counts: Sequence[int],
    positions: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Hidden states `[rows, new, hidden]` of the next `counts[i]` ids of each slot.

    Args:
        inputs: ids `[rows, new]` or embeddings `[rows, new, hidden]`; behind a row's own stands padding.
        positions: `[rows, new]`, where they are not simply the next ones.
        seen: bool `[rows, new, keys]`, where not simply all before is seen; keys: as far as the fullest row.
    """
    places = cache.place(slots, counts, inputs.device)
    if positions is None:
        positions = places.clamp(max=cache.longest - 1)
    if seen is None:
        seen = torch.arange(cache.longest, device=inputs.device) <= places[..., None]
    arguments = {"input_ids" if inputs.ndim == 2 else "inputs_embeds": inputs}
    output = model.get_decoder()(
        position_ids=positions, attention_mask=seen[:, None], past_key_values=cache, use_cache=True, **arguments
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def last_states(hidden: Tensor, counts: Sequence[int]) -> Tensor:
    """Each row's state `[rows, hidden]` after its own last id, of `[rows, new, hidden]`."""
    rows = torch.arange(len(counts), device=hidden.device)
    return hidden[rows, torch.tensor(counts, device=hidden.device) - 1]
