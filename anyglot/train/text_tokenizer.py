"""The text stage: train a text tokenizer on the text of documents, or take over a Hugging Face one."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train.finished import is_finished

logger = logging.getLogger(__name__)


@dataclass
class TextTokenizerConfig:
    """Configuration of the stage.

    out: the run's folder; the tokenizer comes to `out`/tokenizer.
    data: files of documents, whose text parts are learned from, in order. split: only documents of this split,
        or that state none; "" takes all. max_characters: read no more text than this.
    size: how many ids. character_coverage: share of all characters that get ids of their own; the rest is
        spelled in bytes.
    huggingface: instead of all this, a directory whose tokenizer.json is taken over, ids unchanged.
    document: with it, the two of its tokens that begin and end a document, such as ["<|endoftext|>", "<|endoftext|>"].
        Documents and chats are then marked with the backbone's own control ids, turns as its chat template writes them;
        empty: with ids of our own, which the backbone has to learn.
    """

    out: str
    stage: str = "text_tokenizer"
    data: list[str] = field(default_factory=list)
    split: str = "train"
    max_characters: int = 100_000_000
    size: int = 32_000
    character_coverage: float = 0.9995
    huggingface: str = ""
    document: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.huggingface):
            raise ConfigError("a text tokenizer needs either `data` to train on or a `huggingface` directory")
        if self.document and (len(self.document) != 2 or not self.huggingface):
            raise ConfigError("`document` names two tokens of `huggingface`: what begins and what ends a document")


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage.

    Args:
        mapping: the config's plain values, see TextTokenizerConfig. where: its name in error messages.
    Raises:
        AnyglotError: no text, too little text, or an `out` that holds a tokenizer of other settings.
    """
    config = typed(TextTokenizerConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "text tokenizer"):
        return
    began = time.time()
    texts = list(_texts(config))
    if config.huggingface:
        tokenizer = TextTokenizer.from_huggingface(config.huggingface, config.document)
    else:
        tokenizer = TextTokenizer.train(texts, config.size, config.character_coverage)
    tokenizer.save_pretrained(out / "tokenizer")
    facts = {"size": tokenizer.size, "fingerprint": tokenizer.fingerprint, "characters": sum(map(len, texts))}
    write_json(out / "done.json", {"config": to_mapping(config), **facts, "seconds": round(time.time() - began, 1)})


def _texts(config: TextTokenizerConfig) -> Iterator[str]:
    """The text parts to learn from, in the order of the files. What cannot be read is reported and skipped."""
    left = config.max_characters
    skipped = 0
    for file in config.data:
        for document in (found for part in slices(file) for found in read(part)):
            if isinstance(document, Problem):
                logger.warning("%s: skipped, %s: %s", document.where, document.kind, document.reason)
                skipped += 1
                continue
            if config.split and document.split not in (None, config.split):
                continue
            for text in (part.text for turn in document.turns for part in turn.parts if part.text):
                yield text[:left]
                left -= len(text)
                if left <= 0:
                    logger.info("stopped reading at max_characters = %d, in %s", config.max_characters, file)
                    return
    if config.data and left == config.max_characters:
        raise AnyglotError(f"no text of split {config.split!r} in {', '.join(config.data)} ({skipped} records skipped)")
