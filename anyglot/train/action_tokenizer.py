"""The action stage: fit a FAST tokenizer to the actions in documents. Nothing is trained, so there are no steps.

    anyglot train action/fast 'data.files=[actions.jsonl]' out=runs/fast

`out` gets `tokenizer/` and `done.json` with what held-out actions cost.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.errors import AnyglotError
from anyglot.eval.action import evaluate
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
    training = find_parts(config.data.files, "action", config.data.split)
    tokenizer.begin(_media(config, tokenizer, training))
    tokenizer.save_pretrained(out / "tokenizer")
    try:
        figures = evaluate(tokenizer, _media(config, tokenizer, _heldout(config, training))[:])
    except AnyglotError as error:
        logger.warning("nothing measured: %s", error)
        figures = {}
    done = {"fingerprint": tokenizer.fingerprint, **figures, "seconds": round(time.time() - began, 1)}
    write_json(out / "done.json", {"config": to_mapping(config), **done})


def _heldout(config: ActionTokenizerConfig, training: list[Part]) -> list[Part]:
    """Held-out actions, without those that were fitted to: documents that name no split are taken for any."""
    seen = {part.key for part in training}
    found = find_parts(config.data.files, "action", config.data.heldout)
    fresh = [part for part in found if part.key not in seen]
    if not fresh:
        raise AnyglotError(f"all {len(found)} actions were fitted to; say in documents which `split` they are of")
    return fresh


def _media(config: ActionTokenizerConfig, tokenizer: ActionTokenizer, parts: list[Part]) -> MediaCorpus:
    return MediaCorpus(parts, tokenizer, config.data.cache_mb * 2**20)
