"""The likeliest codes of a catalogue after a prompt: beam search that follows the codes that there are, and no others.

A medium without axes is one stack of codes, e.g. an item's semantic ID. All beams of a prompt stand side by side in one
row behind it: each sees the prompt and its own codes, so that the prompt is read and kept once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anyglot.errors import AnyglotError
from anyglot.inference.cache import KeyValueCache
from anyglot.inference.decoder import Decoder
from anyglot.inference.reading import hidden_states, last_states
from anyglot.inference.trie import Prefix, Trie


class Beam(NamedTuple):
    """codes: of one medium. score: their log-probability among all codes of the catalogue."""

    codes: Prefix
    score: float


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    modality: str,
    catalogue: Trie,
    beams: int,
    allowed: Sequence[Trie] | None = None,
) -> list[list[Beam]]:
    """The likeliest media after each prompt, best first: `beams` of them, or as many as there are.

    Keeps no state from call to call. With as many beams as the catalogue has prefixes it is exhaustive.

    Args:
        prompts: ids, from bos to where a span may open. modality: one without axes.
        catalogue: all codes there are; probabilities are shared out among them.
        allowed: for each prompt those that it may be answered with, e.g. without what a user has seen already; their
            scores stay what they are among all.
    Raises:
        AnyglotError: a modality with axes, beams below 1, or a prompt that is too long. GrammarError: a prompt is not
        a document's start, or no span may open after it.
    """
    rules = decoder.automaton.rules_of(modality)
    if rules.spec.axes or catalogue.codes.shape[1] != rules.levels:
        raise AnyglotError(f"beams write media of one stack of codes; {modality} has {rules.spec} in this vocabulary")
    if beams < 1:
        raise AnyglotError(f"beams must be 1 or more, not {beams}")
    longest = max(map(len, prompts), default=0) + rules.levels + 2
    if longest > decoder.limit:
        raise AnyglotError(
            f"the longest prompt leaves no room: {longest} ids, the model reads {decoder.limit}; shorten the history"
        )
    if decoder.depth is not None:
        raise AnyglotError(
            "beams read levels one by one; use a model whose modalities are written by other streams than depth"
        )
    if not prompts:
        return []
    opened = []
    for prompt in prompts:
        decoder.automaton.open(decoder.automaton.advance_all(prompt), modality)
        opened.append([*prompt, rules.opener])
    tries = allowed if allowed is not None else [catalogue] * len(prompts)

    device, rows, lengths = decoder.head.device, len(prompts), [len(ids) for ids in opened]
    cache = KeyValueCache(rows, max(lengths) + beams * (rules.levels - 1))
    ids = pad_sequence([torch.tensor(ids) for ids in opened], batch_first=True).to(device)
    states = hidden_states(decoder.model, cache, range(rows), ids, lengths)
    hidden = last_states(states, lengths)[:, None]  # [rows, 1, hidden]
    read = torch.tensor(lengths, device=device)
    seen = (torch.arange(cache.length, device=device) < read[:, None])[:, None]  # [rows, beams, keys]
    prefixes: list[list[Prefix]] = [[()] for _ in range(rows)]
    scores = torch.zeros(rows, 1, device=device)
    for level in range(rules.levels):
        low, high = rules.symbols[level]
        logits = decoder.logits(hidden, low, high).float()  # [rows, beams, size]
        among = _mask([catalogue] * rows, prefixes, logits)
        likely = logits.masked_fill(~among, -torch.inf).log_softmax(-1).nan_to_num(-torch.inf, neginf=-torch.inf)
        total = (scores[:, :, None] + likely).masked_fill(~_mask(tries, prefixes, logits), -torch.inf)
        scores, picks = total.flatten(1).topk(min(beams, total[0].numel()))  # [rows, beams]
        parents, codes = picks // (high - low), picks % (high - low)
        prefixes = [
            [(*before[parent], code) for parent, code in zip(*pair, strict=True)]
            for before, *pair in zip(prefixes, parents.tolist(), codes.tolist(), strict=True)
        ]
        if level + 1 < rules.levels:
            width = picks.shape[1]
            seen = seen.gather(1, parents[:, :, None].expand(-1, -1, seen.shape[2]))
            own = torch.tensor(cache.filled, device=device)[:, None] + torch.arange(width, device=device)
            seen = seen.scatter(2, own[..., None], True)
            filled = max(cache.filled) + width
            positions = (read + level)[:, None].expand(-1, width)
            hidden = hidden_states(
                decoder.model, cache, range(rows), low + codes, [width] * rows, positions, seen[..., :filled]
            )
    return [
        [Beam(codes, score) for codes, score in zip(*pair, strict=True) if score > -torch.inf]
        for pair in zip(prefixes, scores.tolist(), strict=True)
    ]


def _mask(tries: Sequence[Trie], prefixes: list[list[Prefix]], logits: Tensor) -> Tensor:
    """bool `[rows, beams, size]` as `logits`: which codes may follow each prefix."""
    mask = np.zeros(logits.shape, dtype=bool)
    for row, (trie, of_row) in enumerate(zip(tries, prefixes, strict=True)):
        for beam, prefix in enumerate(of_row):
            mask[row, beam, trie.children(prefix)] = True
    return torch.from_numpy(mask).to(logits.device)
