"""What of a model is trained: rows of new ids, as parameters of their own, and patterns that freeze the rest."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anyglot.errors import ConfigError, MismatchError
from anyglot.lm.model import ModelConfig, build_model, initialise_codes
from anyglot.lm.rows import INITS, add_rows, split_rows
from anyglot.lm.vocabulary import FILE, Vocabulary
from anyglot.train.lora import LoraConfig, add_lora


@dataclass
class NewRowsConfig:
    """Rows of embedding and head that are parameters of their own, `*.new_rows` beside `*.old_rows`.

    after: the checkpoint directory whose ids are the old ones, or the first new id; empty: rows stay one parameter.
    init: how rows begin that `model.pretrained` lacks: "codebook", "mean" or "random" (`lm/rows.py`).
    """

    after: str = ""
    init: str = "codebook"

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ConfigError(f"new_rows.init {self.init!r} is unknown; valid: {', '.join(INITS)}")


def build_trainable(
    config: ModelConfig,
    vocabulary: Vocabulary,
    new_rows: NewRowsConfig,
    freeze_patterns: Sequence[str],
    codebooks: Mapping[str, Sequence[Tensor]],
    seed: int,
    lora: LoraConfig | None = None,
    filled: bool = True,
) -> Any:
    """The model of a config: from scratch, or pretrained with the rows that it lacks; split, adapted, frozen as told.

    codebooks: modality -> vectors `[size, dim]` of each level, which new rows of codes begin as projections of.
    filled: False for the shape alone, its weights being another process's matter (`filled_by_first_rank`).
    """
    if not new_rows.after:
        model = build_model(config, vocabulary.size, seed, filled)
        if not config.pretrained:
            initialise_codes(model, vocabulary, codebooks, seed)
    else:
        if not config.pretrained:
            raise ConfigError("new_rows is for a model that has old ones; set model.pretrained to a checkpoint")
        old = first_new_id(new_rows.after, vocabulary)
        known = first_new_id(config.pretrained, vocabulary)
        if known < old:
            raise ConfigError(f"new_rows.after: ids end at {old}, in model.pretrained already at {known}; give its own")
        model = build_model(config, known, seed, filled)
        if known < vocabulary.size:
            add_rows(model, vocabulary, known, new_rows.init, codebooks, seed)
        split_rows(model, old)
    if lora and lora.rank:
        add_lora(model, lora, seed)
    freeze(model, freeze_patterns)
    return model


def first_new_id(after: str, vocabulary: Vocabulary) -> int:
    """How many ids a checkpoint directory knows, or the number that `after` is.

    A checkpoint without a vocabulary of ours, such as a backbone from elsewhere, knows the text block, as far as it has
    rows for it.
    Raises MismatchError if its ids mean something else in `vocabulary`, ConfigError if there is no checkpoint.
    """
    if after.isdecimal():
        first = int(after)
        if not 0 < first <= vocabulary.size:
            raise ConfigError(f"new_rows.after: {first} is no id of the vocabulary of {vocabulary.size}")
        return first
    directory = Path(after)
    if (directory / FILE).is_file():
        older = Vocabulary.load(directory)
        if not vocabulary.extends(older):
            raise MismatchError(
                f"{directory} has vocabulary {older.fingerprint}, which the data's vocabulary {vocabulary.fingerprint} "
                "does not extend; tokenize the data with an extension of the checkpoint's vocabulary"
            )
        return older.size
    if not (directory / "config.json").is_file():
        raise ConfigError(f"new_rows.after: {after} is neither a checkpoint directory nor an id")
    described = json.loads((directory / "config.json").read_text("utf-8"))
    return min(vocabulary.text_size, described.get("vocab_size", vocabulary.text_size))


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match, in place. As in a .gitignore, `!pattern` takes back, and the last match
    counts: `["*", "!*.new_rows", "!model.layers.3.*"]` trains new rows and one layer.

    Raises ConfigError for a pattern that matches nothing, naming near names, and if nothing is left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern.removeprefix("!"))]
        if not matched:
            raise ConfigError(
                f"freeze: no parameter matches {pattern!r}; near are: {', '.join(_near(parameters, pattern))}"
            )
        for name in matched:
            parameters[name].requires_grad_(pattern.startswith("!"))
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"freeze: {', '.join(patterns)} leaves nothing to train; take something back with '!...'")


def _near(names: Mapping[str, Any], pattern: str) -> list[str]:
    """Patterns of parameters and modules that are like a pattern, numbers as `*`."""
    whole = {re.sub(r"\.\d+\.", ".*.", name) for name in names}
    above = {f"{name.rsplit('.', times)[0]}.*" for name in whole for times in range(1, name.count(".") + 1)}
    found = difflib.get_close_matches(pattern.removeprefix("!"), sorted(whole | above), n=3, cutoff=0.3)
    return found or sorted(whole)[:3]
