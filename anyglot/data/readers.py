"""Files of documents: JSON lines, JSON arrays, Parquet and WebDataset tars, in slices that can be read apart.

A reader never stops at a bad record: it yields a Problem that says where and why, and goes on.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from anyglot.data.documents import Document, DocumentError, Resolver, files_below
from anyglot.data.records import SCHEMAS, TEXT_KEYS, parse_record
from anyglot.errors import AnyglotError

FORMATS = ("jsonl", "json", "parquet", "webdataset")
SUFFIXES = {"image": "jpg jpeg png webp bmp", "speech": "wav flac ogg mp3", "video": "mp4 webm mkv avi", "text": "txt"}
KIND = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
COMPRESSED = {".gz", ".bz2", ".zst"}
PICKLES = {"pyd", "pkl", "pickle", "pth", "pt", "ckpt"}


@dataclass(frozen=True)
class Problem:
    """Something that was skipped. where: file and line, row, sample or medium. kind: what to count it under."""

    where: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Slice:
    """A run of consecutive records of one file: the unit of parallel, resumable work.

    count: how many records; 0 means to the end of the file. offset: byte where the first begins (JSON).
    """

    file: str
    format: str
    first: int = 0
    count: int = 0
    offset: int = 0


def recognise(path: Path) -> str:
    """The format of a file by its name, and by its first character where the name says only `.json`.

    Raises AnyglotError naming the file and the formats.
    """
    name = path.stem if path.suffix in COMPRESSED else path.name
    suffix = name.rpartition(".")[2].lower()
    if suffix in ("jsonl", "ndjson"):
        return "jsonl"
    if suffix == "json":
        with _open(path) as file:
            return "json" if file.read(4096).lstrip().startswith(b"[") else "jsonl"
    if suffix in ("parquet", "tar", "tgz"):
        return "parquet" if suffix == "parquet" else "webdataset"
    raise AnyglotError(f"{path}: format not recognised by its name; set `format` to one of {', '.join(FORMATS)}")


def slices(path: str | Path, format: str = "auto", size: int = 1000, limit: int = 0) -> list[Slice]:
    """Cut a file into slices of at most `size` records, of at most `limit` records in all (0: no limit).

    Raises AnyglotError if the file is missing or its format unknown. Without limit the last slice reads to the file's
    end, so that `read` meets and reports what is damaged there.
    """
    path = Path(path)
    if not path.is_file():
        raise AnyglotError(f"{path}: no such file; check the source's `files`")
    kind = recognise(path) if format == "auto" else format
    if kind not in FORMATS:
        raise AnyglotError(f"{path}: unknown format {format!r}; known: auto, {', '.join(FORMATS)}")
    starts = list(islice(_starts(path, kind, size), None if not limit else -(-limit // size)))
    cut = [Slice(str(path), kind, first, size, offset) for first, offset in starts]
    if cut and limit and cut[-1].first + size >= limit:
        cut[-1] = Slice(str(path), kind, cut[-1].first, limit - cut[-1].first, cut[-1].offset)
    elif cut:  # the last slice reads to the end, so that it meets whatever is damaged there
        cut[-1] = Slice(str(path), kind, cut[-1].first, 0, cut[-1].offset)
    return cut


def read(part: Slice, schema: str = "auto", media: str | Path = "") -> Iterator[Document | Problem]:
    """The documents of a slice, in order; what cannot be read comes as a Problem.

    Args:
        schema: a name of `records.SCHEMAS`, or "auto".
        media: folder that relative paths start from; "" is the folder of the file.
    """
    if schema not in ("auto", *SCHEMAS):
        raise AnyglotError(f"unknown schema {schema!r}; known: auto, {', '.join(SCHEMAS)}")
    path = Path(part.file)
    resolve = files_below(Path(media) if media else path.parent)
    records = {"jsonl": _lines, "json": _array, "parquet": _rows, "webdataset": _samples}[part.format](part, resolve)
    try:
        for where, record, own_resolve in records:
            if isinstance(record, Problem):
                yield record
                continue
            try:
                yield parse_record(record, own_resolve, where, schema)
            except DocumentError as error:
                yield Problem(where, "malformed record", str(error))
    except Exception as error:  # the container itself is damaged; json, pyarrow and tarfile raise many types
        yield Problem(part.file, "unreadable file", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


Record = tuple[str, Any, Resolver]  # where, the record or a Problem, what its references mean


def _starts(path: Path, kind: str, size: int) -> Iterator[tuple[int, int]]:
    """First record and byte offset of every slice. At damage it stops: the last slice reads on and reports it."""
    yield 0, 0
    try:
        if kind == "jsonl":
            offset = 0
            with _open(path) as file:
                for number, line in enumerate(file):
                    if number and number % size == 0:
                        yield number, offset
                    offset += len(line)
            return
        if kind == "json":
            for number, (offset, _) in enumerate(_elements(path)):
                if number and number % size == 0:
                    yield number, offset
            return
        for first in range(size, _count(path, kind), size):
            yield first, 0
    except Exception:  # reported by `read`, with its place
        return


def _count(path: Path, kind: str) -> int:
    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    count, last = 0, None
    with tarfile.open(path) as tar:
        try:
            for member in tar:
                key = _key(member.name)
                if member.isfile() and key != last:
                    count, last = count + 1, key
        except tarfile.TarError:
            pass  # what came before the damage can still be sliced
    return count


def _open(path: Path, offset: int = 0) -> IO[bytes]:
    """Bytes of a file from an offset, decompressed if its name ends in .gz, .bz2 or .zst."""
    if path.suffix not in COMPRESSED:
        file = path.open("rb")
        file.seek(offset)
        return file
    import pyarrow as pa

    stream: Any = pa.input_stream(str(path), compression="detect")
    decompressed = io.BufferedReader(stream, 1 << 20)
    while offset and (skipped := decompressed.read(min(offset, 1 << 24))):
        offset -= len(skipped)
    return decompressed


def _lines(part: Slice, resolve: Resolver) -> Iterator[Record]:
    with _open(Path(part.file), part.offset) as file:
        for number, line in enumerate(islice(file, part.count or None), start=part.first + 1):
            if not line.strip():
                continue
            where = f"{part.file}:{number}"
            try:
                yield where, json.loads(line), resolve
            except ValueError as error:
                yield where, Problem(where, "malformed record", f"not valid JSON: {error}"), resolve


def _array(part: Slice, resolve: Resolver) -> Iterator[Record]:
    elements = islice(_elements(Path(part.file), part.offset), part.count or None)
    for index, (_, record) in enumerate(elements, start=part.first):
        yield f"{part.file}[{index}]", record, resolve


def _elements(path: Path, offset: int = 0) -> Iterator[tuple[int, Any]]:
    """(byte offset, element) of a JSON array, from 0 or the offset of one of its elements, holding little of it."""
    decoder, separator = json.JSONDecoder(), re.compile(r"\s*[\[,]?\s*")
    with _open(path, offset) as raw, io.TextIOWrapper(raw, encoding="utf-8") as file:
        text, at = "", 0  # what is read and not yet decoded begins at text[at], byte `offset` of the file
        while True:
            start = cast(re.Match[str], separator.match(text, at)).end()
            if text.startswith("]", start):
                return
            try:
                element, end = decoder.raw_decode(text, start)
            except ValueError:
                more = file.read(max(1 << 18, len(text) - at))
                if not more:
                    raise
                text, at = text[at:] + more, 0
                continue
            yield offset + len(text[at:start].encode()), element
            offset += len(text[at:end].encode())
            at = end


def _rows(part: Slice, resolve: Resolver) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(part.file) as file:
        stop = part.first + part.count if part.count else file.metadata.num_rows
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < stop and start + rows > part.first:
                row = start
                for batch in file.iter_batches(batch_size=64, row_groups=[group]):
                    if row < stop and row + len(batch) > part.first:
                        for number, record in enumerate(batch.to_pylist(), start=row):
                            if part.first <= number < stop:
                                yield f"{part.file}: row {number}", record, resolve
                    row += len(batch)
            start += rows


def _samples(part: Slice, resolve: Resolver) -> Iterator[Record]:
    """WebDataset: consecutive members with one key (the path up to the first dot of the name) are one sample."""
    index, ignored = -1, set()
    stop = part.first + part.count if part.count else None
    key, members = "", dict[str, bytes]()
    with tarfile.open(part.file) as tar:
        for member in tar:
            if not member.isfile():
                continue
            if index < 0 or _key(member.name) != key:
                if members:
                    yield _sample(part.file, key, members)
                index, key, members = index + 1, _key(member.name), {}
                if stop is not None and index >= stop:
                    break
            if index < part.first:
                continue
            name = PurePosixPath(member.name).name.partition(".")[2].lower()
            suffix = name.rpartition(".")[2]
            if suffix in KIND or suffix == "json":
                content = tar.extractfile(member)
                members[name] = content.read() if content else b""
            elif suffix not in ignored:
                ignored.add(suffix)
                reason = "pickles are never read" if suffix in PICKLES else f"known: {', '.join(KIND)}, json"
                where = f"{part.file}: {member.name}"
                yield where, Problem(where, "ignored member", f"members .{suffix} are ignored ({reason})"), resolve
    if members and (stop is None or index < stop):
        yield _sample(part.file, key, members)


def _sample(file: str, key: str, members: dict[str, bytes]) -> Record:
    """The record of one sample: its json where that is a document, else its members as parts, in their order."""
    where = f"{file}: sample {key}"

    def resolve(reference: str) -> bytes:
        name = PurePosixPath(reference).name
        for candidate in (reference, name, name.partition(".")[2], name.rpartition(".")[2]):
            if candidate in members:
                return members[candidate]
        raise DocumentError(f"{reference!r} is not a member of the sample; it has {', '.join(members)}")

    try:
        described = json.loads(members.pop("json", b"{}"))
        if not isinstance(described, dict):
            described = {}
        if described.keys() & {"parts", "messages", "conversations", "texts"}:
            return where, {"id": key, **described}, resolve
        parts = [_member(name, content) for name, content in members.items()]
        if not any(KIND[name.rpartition(".")[2]] == "text" for name in members):
            captions = [described[name] for name in TEXT_KEYS if isinstance(described.get(name), str)]
            parts += [{"type": "text", "text": caption} for caption in captions[:1]]
        return where, {"id": key, "split": described.get("split"), "parts": parts}, resolve
    except ValueError as error:
        return where, Problem(where, "malformed record", str(error)), resolve


def _member(name: str, content: bytes) -> dict[str, Any]:
    kind = KIND[name.rpartition(".")[2]]
    return {"type": "text", "text": content.decode("utf-8")} if kind == "text" else {"type": kind, "bytes": content}


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.partition(".")[0])
