"""What a model has read of each row so far, and its hidden state after it: plain, or with levels inside a position."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from anyglot.inference.cache import KeyValueCache, padded_prompts
from anyglot.lm.depth import DepthTransformer


class Reader(Protocol):
    """Rows of ids being read by a model; all states are `[rows, hidden]`, after the last id of each row."""

    def read_prompts(self, prompts: Sequence[list[int]], room: int) -> Tensor:
        """Begin with these; `room` ids of each row may be read in all."""
        ...

    def read(self, tokens: Sequence[int]) -> Tensor:
        """One more id of each row."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        ...


class PlainReader:
    """All rows in one forward, an id a position."""

    def __init__(self, model: Any, pad: int) -> None:
        self.model, self.pad = model, pad
        self.device = model.get_input_embeddings().weight.device

    def read_prompts(self, prompts: Sequence[list[int]], room: int) -> Tensor:
        ids, self.pads = padded_prompts(list(prompts), self.pad, self.device)
        self.cache = KeyValueCache(room)
        return hidden_after(self.model, ids, self.pads, self.cache)

    def read(self, tokens: Sequence[int]) -> Tensor:
        return hidden_after(self.model, torch.tensor(tokens, device=self.device)[:, None], self.pads, self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        kept = torch.tensor(rows, dtype=torch.long, device=self.device)
        self.cache.keep_rows(kept)
        self.pads = self.pads[kept]


def hidden_after(model: Any, ids: Tensor, pads: Tensor, cache: KeyValueCache) -> Tensor:
    """Hidden states `[rows, hidden]` after the last of `ids` `[rows, new]`; each row began with so many pads."""
    new, before = ids.shape[1], cache.filled
    places = torch.arange(before, before + new, device=ids.device)  # [new]
    keys = torch.arange(before + new, device=ids.device)  # [read]
    positions = (places[None] - pads[:, None]).clamp(min=0)
    # A pad sees itself, since a softmax over nothing is NaN; nobody else sees it.
    seen = (keys[None, None] <= places[None, :, None]) & (keys[None, None] >= pads[:, None, None])
    seen |= keys[None, None] == places[None, :, None]
    hidden = model.get_decoder()(
        input_ids=ids, position_ids=positions, attention_mask=seen[:, None], past_key_values=cache, use_cache=True
    ).last_hidden_state
    cache.advance(new)
    return hidden[:, -1]


class DepthReader:
    """Rows whose stacks of codes are one position each (`anyglot.lm.depth`), each read by itself.

    Rows are at different levels and positions at a time, so that they do not share a forward.

    Args:
        riders: int64 `[vocabulary]`, see `riders_after`.
    """

    def __init__(self, model: Any, depth: DepthTransformer, riders: Tensor) -> None:
        self.model, self.depth = model, depth
        self.riders = riders.tolist()

    def read_prompts(self, prompts: Sequence[list[int]], room: int) -> Tensor:
        self.rows = [_DepthRow(self.model, self.depth, self.riders, room) for _ in prompts]
        return torch.stack([row.read(prompt) for row, prompt in zip(self.rows, prompts, strict=True)])

    def read(self, tokens: Sequence[int]) -> Tensor:
        return torch.stack([row.read([token]) for row, token in zip(self.rows, tokens, strict=True)])

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


class _DepthRow:
    """One row: positions that are whole have been read by the language model, the codes of a begun one wait."""

    def __init__(self, model: Any, depth: DepthTransformer, riders: list[int], room: int) -> None:
        self.model, self.depth, self.riders = model, depth, riders
        self.cache = KeyValueCache(room)
        self.state: Tensor | None = None  # [hidden], after the last whole position
        self.begun: list[int] = []  # ids of a position that is not whole yet

    def read(self, ids: Sequence[int]) -> Tensor:
        """Hidden state `[hidden]` from which the id after `ids` is read."""
        whole: list[list[int]] = []
        for token in ids:
            self.begun.append(token)
            if len(self.begun) == 1 + self.riders[self.begun[0]]:
                whole.append(self.begun)
                self.begun = []
        if whole:
            self.state = self._positions(whole)
        assert self.state is not None  # a document begins with an id that nothing rides on
        if not self.begun:
            return self.state
        return self.depth(self.state[None], self._embed(self.begun)[None])[0, -1]

    def _positions(self, whole: list[list[int]]) -> Tensor:
        device = self.model.get_input_embeddings().weight.device
        before, new = self.cache.filled, len(whole)
        places = torch.arange(before, before + new, device=device)
        keys = torch.arange(before + new, device=device)
        hidden = self.model.get_decoder()(
            inputs_embeds=torch.stack([self._embed(ids).sum(0) for ids in whole])[None],
            position_ids=places[None],
            attention_mask=(keys[None] <= places[:, None])[None, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.cache.advance(new)
        return hidden[0, -1]

    def _embed(self, ids: list[int]) -> Tensor:
        embedding = self.model.get_input_embeddings()
        return embedding(torch.tensor(ids, device=embedding.weight.device))
