"""The action stage: fit a FAST tokenizer to the actions in documents. Nothing is trained, so there are no steps.

    anyglot train action/fast 'data.files=[actions.jsonl]' out=runs/fast

`out` gets `tokenizer/` and `done.json` with what held-out actions cost.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError
from anyglot.files import write_json
from anyglot.tokenizers.action import ActionConfig, ActionTokenizer
from anyglot.train.finished import is_finished
from anyglot.train.media import MediaCorpus, find_parts

logger = logging.getLogger(__name__)


@dataclass
class ActionDataConfig:
    """files: documents (JSON lines and so on). split: fitted to. heldout: measured on, where there is any.
    cache_mb: media kept in memory."""

    files: list[str] = MISSING
    split: str = "train"
    heldout: str = "heldout"
    cache_mb: int = 2048


@dataclass
class ActionTokenizerConfig:
    """out: the run's folder; the tokenizer comes to `out`/tokenizer. model: fields of ActionConfig."""

    out: str = MISSING
    stage: str = "action_tokenizer"
    data: ActionDataConfig = field(default_factory=ActionDataConfig)
    model: dict[str, Any] = field(default_factory=dict)


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage. Raises AnyglotError: no actions, too many different integers, an `out` of other settings."""
    config = typed(ActionTokenizerConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "action tokenizer"):
        return
    began = time.time()
    tokenizer = ActionTokenizer(typed(ActionConfig, config.model, f"{where}: model"))
    tokenizer.begin(_media(config, tokenizer, config.data.split))
    tokenizer.save_pretrained(out / "tokenizer")
    try:
        figures = measure(tokenizer, _media(config, tokenizer, config.data.heldout)[:])
    except AnyglotError as error:
        logger.warning("nothing measured: %s", error)
        figures = {}
    done = {"fingerprint": tokenizer.fingerprint, **figures, "seconds": round(time.time() - began, 1)}
    write_json(out / "done.json", {"config": to_mapping(config), **done})


def measure(tokenizer: ActionTokenizer, media: Sequence[np.ndarray]) -> dict[str, float]:
    """What coding actions [time, features] costs and loses.

    numbers_per_code: how many times fewer codes there are than with one for each number. bits_per_number: of these
    codes. rounding_bits_per_number: of numbers rounded apart, in [-1, 1], so finely that the error is the same. rmse,
    worst: of the decoded actions, where the 1st and 99th percentile of a feature are -1 and 1.
    """
    codes = tokenizer.encode(media)
    errors = [(a - b) / tokenizer.half_range for a, b in zip(tokenizer.decode(codes), media, strict=True)]
    rmse = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    numbers, count = sum(action.size for action in media), sum(map(len, codes))
    return {
        "numbers_per_code": numbers / count,
        "bits_per_number": tokenizer.spec.bits * count / numbers,
        "rounding_bits_per_number": max(0.0, log2(2 / (rmse * sqrt(12)))),
        "rmse": rmse,
        "worst": float(max(np.abs(error).max() for error in errors)),
    }


def _media(config: ActionTokenizerConfig, tokenizer: ActionTokenizer, split: str) -> MediaCorpus:
    return MediaCorpus(find_parts(config.data.files, "action", split), tokenizer, config.data.cache_mb * 2**20)
