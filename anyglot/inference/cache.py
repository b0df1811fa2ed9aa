"""The keys and values of what was read so far, in room set aside ahead, every slot filled on its own."""

from collections.abc import Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values `[slots, heads, length, head_dim]` of every layer; a Hugging Face model updates it in place.

    Call `place` before a forward, which says what rows it has. Slots 0, 1, ... in this order are handed to attention
    without a copy, and only as far as the fullest of them is filled.

    Args:
        slots: rows that there is room for. length: ids that each has room for at first; more is set aside when it is
            needed, in powers of two.
    """

    is_compileable = False

    def __init__(self, slots: int, length: int) -> None:
        self.slots, self.length = slots, length
        self.filled = [0] * slots
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def place(self, slots: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
        """Say what the next forward reads: `counts[i]` ids of slot `slots[i]`, which are counted as read.

        Returns:
            int64 `[rows, max(counts)]`: where they go. Behind a row's own stands `length`, a place that nobody reads.
        """
        first = torch.tensor([self.filled[slot] for slot in slots], device=device)
        for slot, count in zip(slots, counts, strict=True):
            self.filled[slot] += count
        self.longest = max(self.filled[slot] for slot in slots)
        if self.longest > self.length:
            self._grow(1 << (self.longest - 1).bit_length())
        steps = torch.arange(max(counts), device=device)
        places = first[:, None] + steps
        if min(counts) < len(steps):
            places[steps >= torch.tensor(counts, device=device)[:, None]] = self.length
        self._rows = torch.tensor(list(slots), device=device)
        self._in_order = list(slots) == list(range(len(slots)))
        self._places = places
        return places

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Put `[rows, heads, new, head_dim]` of a layer in place; return all that these rows have in this layer."""
        if layer == len(self._keys):  # zeros: what is masked out must still be finite
            self._keys.append(keys.new_zeros(self.slots, keys.shape[1], self.length + 1, keys.shape[3]))
            self._values.append(values.new_zeros(self.slots, values.shape[1], self.length + 1, values.shape[3]))
        return self._put(self._keys[layer], keys), self._put(self._values[layer], values)

    def _put(self, held: Tensor, new: Tensor) -> Tensor:
        held[self._rows[:, None], :, self._places] = new.transpose(1, 2)
        read = held[:, :, : self.longest]
        return read[: len(self._rows)] if self._in_order else read[self._rows]

    def _grow(self, length: int) -> None:
        """Make room for so many ids in each slot. Layers are copied one by one."""
        for held in (self._keys, self._values):
            for layer, old in enumerate(held):
                new = old.new_zeros(self.slots, old.shape[1], length + 1, old.shape[3])
                new[:, :, : self.length] = old[:, :, : self.length]
                held[layer] = new
        self.length = length

    def clear(self, slot: int) -> None:
        """Forget what a slot has."""
        self.filled[slot] = 0

    def swap(self, one: int, other: int) -> None:
        """Let two slots change places; only what is filled is copied."""
        if one == other:
            return
        for held in (*self._keys, *self._values):
            kept = held[one, :, : self.filled[one]].clone()
            held[one, :, : self.filled[other]] = held[other, :, : self.filled[other]]
            held[other, :, : self.filled[one]] = kept
        self.filled[one], self.filled[other] = self.filled[other], self.filled[one]

    def get_seq_length(self, layer: int = 0) -> int:
        """Ids read so far of the fullest row, as Hugging Face models ask for it."""
        return self.longest
