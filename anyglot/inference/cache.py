"""The keys and values of what was read so far, in room set aside once."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values `[rows, heads, length, head_dim]` of every layer; a Hugging Face model updates it in place.

    Unlike the library's static cache it hands attention only the filled part, and unlike its dynamic one it copies
    nothing when it grows. Call `advance` after each forward.

    Args:
        length: tokens it has room for.
    """

    is_compileable = False

    def __init__(self, length: int) -> None:
        self.length = length
        self.filled = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Append `[rows, heads, new, head_dim]` of a layer; return all that this layer has."""
        if layer == len(self._keys):
            rows, heads, _new, _dim = keys.shape
            self._keys.append(keys.new_empty(rows, heads, self.length, keys.shape[-1]))
            self._values.append(values.new_empty(rows, heads, self.length, values.shape[-1]))
        end = self.filled + keys.shape[2]
        self._keys[layer][:, :, self.filled : end] = keys
        self._values[layer][:, :, self.filled : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self, new: int) -> None:
        """Count `new` tokens as read."""
        self.filled += new

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but `rows`: those that are still being written."""
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            for held, mine in ((self._keys, keys), (self._values, values)):
                mine[: len(rows), :, : self.filled] = mine[rows, :, : self.filled]  # the unfilled room is not touched
                held[layer] = mine[: len(rows)]

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens read so far, as Hugging Face models ask for it."""
        return self.filled


def padded_prompts(prompts: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of unequal lengths, padded on the left.

    Returns:
        ids int64 `[rows, longest]`, and how many pads each row begins with, int64 `[rows]`.
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
    pads = torch.tensor([longest - len(prompt) for prompt in prompts])
    return ids.to(device), pads.to(device)
