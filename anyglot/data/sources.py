"""What `anyglot tokenize` is asked for: its config, and the jobs that the sources' files are cut into."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from glob import glob
from pathlib import Path

from anyglot.data import readers
from anyglot.data.records import SCHEMAS
from anyglot.errors import ConfigError

VERSION = 1  # of what tokenizing gives: raise it whenever the same input would give other shards


@dataclass
class SourceConfig:
    """One source of documents, which becomes one folder of shards."""

    files: list[str]
    """Files, with wildcards (`**` too) and number ranges (`{000..031}`)."""
    format: str = "auto"
    """jsonl, json, parquet, webdataset, or auto: by the file's name."""
    schema: str = "auto"
    """parts, messages, conversations, interleaved, columns, or auto: by a record's keys."""
    media: str = ""
    """Folder that relative media paths start from; empty: the folder of the file that names them."""
    split: str = ""
    """Take only documents of this split; empty: all."""
    orders: list[list[str]] = field(default_factory=list)
    """Make of each document one for each of these lists of modalities, its parts in that order. Empty: as it is."""
    limit: int = 0
    """Read at most so many records of each file; 0: all."""
    on_bad_media: str = "skip_document"
    """What goes when a medium cannot be used: skip_document, or drop_part."""

    def __post_init__(self) -> None:
        if self.on_bad_media not in ("skip_document", "drop_part"):
            raise ConfigError(f"on_bad_media is skip_document or drop_part, not {self.on_bad_media!r}")
        if self.orders and self.on_bad_media == "drop_part":
            raise ConfigError("on_bad_media drop_part cannot go with orders, which name the parts a document must have")
        if self.schema not in ("auto", *SCHEMAS):
            raise ConfigError(f"schema {self.schema!r} is not one of auto, {', '.join(SCHEMAS)}")
        if self.limit < 0:
            raise ConfigError(f"limit must be 0 (all) or more, not {self.limit}")


@dataclass
class TokenizeConfig:
    """What `anyglot tokenize` does."""

    out: str
    """Folder to write."""
    sources: dict[str, SourceConfig]
    """Name -> source; the name is that of the folder of its shards."""
    checkpoint: str = ""
    """A trained model's directory, whose vocabulary and tokenizers are used; then `text`, `tokenizers` and
    `vocabulary` are not given."""
    text: str = ""
    """Directory of the text tokenizer."""
    tokenizers: dict[str, str] = field(default_factory=dict)
    """Modality -> tokenizer directory; in a new vocabulary the modalities come in this order."""
    streams: dict[str, str] = field(default_factory=dict)
    """Modality -> stream of a new vocabulary: frame, level or delay; frame where not named."""
    factors: dict[str, int] = field(default_factory=dict)
    """Modality -> how many sub-codes each of its codes is written as in a new vocabulary; 1 where not named."""
    vocabulary: str = ""
    """An existing vocabulary.json, or its folder, to use; empty: a new one of these tokenizers."""
    max_size: int = 64
    """Numbers that headers share in a new vocabulary; larger ones are added where a modality needs them."""
    max_document: int = 0
    """Tokens; longer plain documents are cut between text tokens, 0 never."""
    documents_per_shard: int = 1000
    """Records of a file that make one shard."""
    batch: int = 16
    """Media per call of a tokenizer."""
    workers: int = 0
    """Processes, one thread each; 0: as many as this machine has processors. One worker runs in this process."""
    device: str = "cpu"
    """Where tokenizers run: cpu, cuda, cuda:1, ..."""
    ray: str = ""
    """A Ray cluster to make shards on: its address, "auto" for the one that this machine belongs to, "local" to start
    one here. Empty: processes of this machine, without Ray. All its machines must see the same files."""

    def __post_init__(self) -> None:
        if self.checkpoint and (self.text or self.tokenizers or self.vocabulary):
            raise ConfigError("checkpoint brings its own text, tokenizers and vocabulary; leave these out")
        if not self.checkpoint and not self.text:
            raise ConfigError("give text, the directory of a text tokenizer, or the checkpoint that brings one")
        for name, least in (("documents_per_shard", 1), ("batch", 1), ("workers", 0), ("max_size", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.max_document and self.max_document < 8:
            raise ConfigError(f"max_document must be 0 (no limit) or at least 8, not {self.max_document}")
        for name in self.sources:
            if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
                raise ConfigError(f"source name {name!r} must be a plain file name")


@dataclass(frozen=True)
class Job:
    """One shard to be made of one slice. hash: of everything that decides its content."""

    source: str
    path: Path
    part: readers.Slice
    hash: str


def plan_jobs(config: TokenizeConfig, vocabulary: str, name: str, source: SourceConfig) -> Iterator[Job]:
    """The shards of one source, in order. vocabulary: fingerprint. Raises ConfigError if no file matches."""
    options = {key: value for key, value in asdict(source).items() if key not in ("files", "limit")}
    decides = [VERSION, vocabulary, sorted(config.tokenizers), config.max_document, options]
    for index, part in enumerate(
        part
        for path in _files(name, source.files)
        for part in readers.slices(path, source.format, config.documents_per_shard, source.limit)
    ):
        stat = os.stat(part.file)
        text = json.dumps([*decides, asdict(part), stat.st_size, stat.st_mtime_ns])
        path = Path(config.out) / name / f"{index:06d}.arrow"
        yield Job(name, path, part, hashlib.sha256(text.encode()).hexdigest()[:16])


def _files(name: str, patterns: Sequence[str]) -> list[str]:
    found = []
    for pattern in (one for given in patterns for one in _ranges(given)):
        matches = sorted(glob(pattern, recursive=True)) or ([pattern] if Path(pattern).exists() else [])
        if not matches:
            raise ConfigError(f"source {name!r}: no file matches {pattern!r}")
        found += matches
    return found


def _ranges(pattern: str) -> list[str]:
    """`a-{08..10}.tar` as the names it stands for."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in _ranges(pattern[: match.start()] + number + pattern[match.end() :])]
