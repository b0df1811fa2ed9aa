"""The output head on the ids that may come next, and on no others."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from anyglot.lm.automaton import Ranges
from anyglot.lm.loss import cap_

NEAR = 256  # ranges that lie closer than so many ids are multiplied as one block


class Cut(NamedTuple):
    """Some ids of the head: `ids` int64 `[choices]`, rising, as `columns` of the blocks that are multiplied.

    columns: None where the blocks hold nothing else.
    """

    ids: Tensor
    blocks: Ranges
    columns: Tensor | None


@lru_cache(maxsize=256)
def cut_of(ranges: Ranges, device: torch.device) -> Cut:
    """How to evaluate the head on ranges of ids."""
    blocks = [ranges[0]]
    for low, high in ranges[1:]:
        if low - blocks[-1][1] <= NEAR:
            blocks[-1] = (blocks[-1][0], high)
        else:
            blocks.append((low, high))
    ids, multiplied = (torch.cat([torch.arange(*r, device=device) for r in rs]) for rs in (ranges, blocks))
    columns = None if len(ids) == len(multiplied) else torch.searchsorted(multiplied, ids)
    return Cut(ids, tuple(blocks), columns)


def logits_of(hidden: Tensor, head: Tensor, softcap: float, cut: Cut) -> Tensor:
    """fp32 logits `[rows, choices]` of a cut's ids, of hidden states `[rows, hidden]` and head `[ids, hidden]`."""
    blocks = [hidden @ head[low:high].T for low, high in cut.blocks]
    logits = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
    return cap_(logits if cut.columns is None else logits[:, cut.columns], softcap).float()
