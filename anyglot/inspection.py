"""`anyglot inspect`: what a tokenizer, vocabulary, shard folder, model or document file holds, in the terminal."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anyglot.errors import AnyglotError

if TYPE_CHECKING:
    import numpy as np

    from anyglot.lm.vocabulary import Vocabulary
    from anyglot.tokenizers.text import TextTokenizer

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")  # of the modalities, in the vocabulary's order
FIRST = 5  # documents of a file that are shown when none is asked for


def show(path: Path, document: int | None = None, text: Path | None = None, console: Console | None = None) -> None:
    """Print what lies at `path`.

    Args:
        document: of a shard folder or a batch, show this document token by token; of a document file, this one only.
        text: text tokenizer directory, to show words; without it the one that lies nearby is used, else ids are shown.
    Raises:
        AnyglotError: nothing there that can be shown, or no such document.
    """
    console = console or Console()
    if not path.exists():
        raise AnyglotError(f"{path}: no such file or directory")
    if path.is_file():
        if path.name == "vocabulary.json":
            _vocabulary(path, console)
        elif path.suffix == ".arrow":
            _shard(path, console)
        elif path.suffix == ".safetensors":
            _failed(path, document, text, console)
        else:
            _documents(path, document, console)
        return
    for result in ("model", "tokenizer", "quantizer", "codes"):  # of a training run's folder
        path = path / result if (path / result).is_dir() else path
    if document is not None:
        _tokens(path, document, text, console)
    elif any(path.glob("[0-9]*.arrow")):
        _store(path, console)
    elif (path / "vocabulary.json").is_file() or (path / "config.json").is_file():
        _model(path, console)
    elif (path / "quantizer.json").is_file():
        _mapping(json.loads((path / "quantizer.json").read_text("utf-8")), console)
        if (path.parent / "metrics.json").is_file():
            _health(json.loads((path.parent / "metrics.json").read_text("utf-8")), console)
    elif (path / "codes.json").is_file():
        _node_codes(path, console)
    elif (path / "manifest.json").is_file():
        _mapping(json.loads((path / "manifest.json").read_text("utf-8")), console)
    else:
        raise AnyglotError(
            f"{path}: no manifest.json (tokenizer), quantizer.json, codes.json, vocabulary.json, config.json (model) "
            "or *.arrow (shards) here"
        )


def _node_codes(path: Path, console: Console) -> None:
    """How many codes nodes have and how well these tell them apart, then the first nodes."""
    from anyglot.tokenizers.node_codes import NodeCodes

    found = NodeCodes.load(path)
    report = found.report()
    console.print(
        f"{len(found)} nodes, {len(found.levels)} codes each, of codebooks of {list(found.levels)}: {report.distinct} "
        f"different ones, {report.collisions} nodes share theirs, {report.entropy:.2f} bits in use"
    )
    table = Table("node", "codes", box=None, header_style="bold")
    for index, codes in enumerate(found.codes[:FIRST].tolist()):
        table.add_row(found.names[index] if found.names else str(index), " ".join(map(str, codes)))
    console.print(table)


def _health(metrics: dict[str, Any], console: Console) -> None:
    """The figures of a quantizer's run: its error, and how each level's codes are used."""
    console.print(
        f"{metrics['bits']:.1f} bits a vector, held-out error {metrics['relative_error']:.1%} of the variance"
    )
    table = Table("level", "codes", "in use", "dead", "bits", box=None, header_style="bold")
    for level, found in enumerate(metrics["health"]):
        cells = (level, found["size"], f"{found['usage']:.1%}", found["dead"], f"{found['bits']:.2f}")
        table.add_row(*map(str, cells))
    console.print(table)


def coloured(ids: Sequence[int], loss: Sequence[bool], vocabulary: "Vocabulary", words: "TextTokenizer | None") -> Text:
    """Token ids as one line of coloured pieces, each modality in its colour; what bears no loss is dim.

    Text tokens alternate in background so that their borders show; without `words` they are ids.
    """
    found = vocabulary.describe(_array(ids))
    line = Text()
    for index, (token, learns) in enumerate(zip(ids, loss, strict=True)):
        block, code = vocabulary.blocks[found.block[index]], int(found.code[index])
        if vocabulary.is_text(token):
            piece = words.to_bytes([token]).decode("utf-8", errors="replace") if words else f"{code} "
            style = "on grey23" if index % 2 else "on grey11"
        elif block.kind == "codes":
            piece, style = f"{code} ", COLOURS[(int(found.modality[index]) - 1) % len(COLOURS)]
            style += " bold" if block.level == 0 else ""
        elif block.kind == "control":
            piece = f" <{block.modality}> " if code == 0 else f"</{block.modality}> "
            style = f"reverse {COLOURS[(int(found.modality[index]) - 1) % len(COLOURS)]}"
        else:
            piece, style = f"[{vocabulary.name(token)}] ", "bold white"
        line.append(piece, style if learns else f"{style} dim")
    return line


def _array(ids: Sequence[int]) -> "np.ndarray":
    import numpy as np

    return np.asarray(ids)


def _tokens(path: Path, document: int, text: Path | None, console: Console) -> None:
    from anyglot.data.shards import TokenStore

    store = TokenStore(path)
    if not 0 <= document < len(store):
        raise AnyglotError(f"{path}: no document {document}, there are {len(store)} (0 to {len(store) - 1})")
    found = store[document]
    console.print(
        f"document {document} {store.name(document)!r}: {len(found.ids)} tokens, {int(found.loss.sum())} learnt"
    )
    for modality, start, length in found.spans:
        console.print(f"  {modality}: tokens {start} to {start + length - 1}", highlight=False)
    words = _words(path, text, store.vocabulary)
    console.print(coloured(found.ids.tolist(), found.loss.tolist(), store.vocabulary, words))


def _failed(path: Path, document: int | None, text: Path | None, console: Console) -> None:
    """A batch that a run stopped on (`anyglot.train.failed`): its worst documents, or one token by token."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load_file

    from anyglot.lm.vocabulary import Vocabulary

    with safe_open(path, "np") as file:
        told = file.metadata() or {}
    if "reason" not in told:
        raise AnyglotError(f"{path}: not a batch that a run stopped on; of a model, give its directory")
    batch = load_file(path)
    documents = [(row, number) for row, ids in enumerate(batch["document_ids"]) for number in range(ids.max() + 1)]
    places = [batch["document_ids"][row] == number for row, number in documents]
    losses = [batch["nll"][row][place] for (row, _), place in zip(documents, places, strict=True)]
    console.print(told["reason"], style="yellow", markup=False)
    if document is not None:
        if not 0 <= document < len(documents):
            raise AnyglotError(
                f"{path}: no document {document}, there are {len(documents)} (0 to {len(documents) - 1})"
            )
        row, place = documents[document][0], places[document]
        vocabulary = Vocabulary.load(path.parent)
        learnt = [True, *(batch["weights"][row][place] > 0)][: place.sum()]  # weights are of the labels, one further
        words = _words(path.parent, text, vocabulary)
        console.print(coloured(batch["input_ids"][row][place].tolist(), learnt, vocabulary, words))
        return
    table = Table("document", "row", "tokens", "not finite", "highest loss", box=None, header_style="bold")
    wrong = [int((~np.isfinite(loss)).sum()) for loss in losses]
    highest = [float(loss[np.isfinite(loss)].max(initial=0)) for loss in losses]
    worst = sorted(range(len(documents)), key=lambda index: (-wrong[index], -highest[index]))
    for index in worst[: 2 * FIRST]:
        cells = (index, documents[index][0], len(losses[index]), wrong[index], f"{highest[index]:.2f}")
        table.add_row(*map(str, cells))
    console.print(table)
    console.print(f"{len(documents)} documents in {len(batch['nll'])} rows; --document N shows one token by token")


def _words(path: Path, text: Path | None, vocabulary: "Vocabulary") -> "TextTokenizer | None":
    """The text tokenizer `text`, else the vocabulary's own if it lies beside the shards, else None."""
    from anyglot.tokenizers.base import read_manifest
    from anyglot.tokenizers.text import TextTokenizer

    if text:
        words = TextTokenizer.from_pretrained(text)
        vocabulary.check({"text": words.fingerprint})
        return words
    places = ("tokenizers/text", "text/tokenizer", "text")
    beside = [folder / name for folder in (path, path.parent, path.parent.parent) for name in places]
    for place in beside:
        there = (place / "manifest.json").is_file()
        if there and read_manifest(place).get("fingerprint") == vocabulary.text_fingerprint:
            return TextTokenizer.from_pretrained(place)
    return None


def _vocabulary(path: Path, console: Console) -> None:
    from anyglot.lm.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(path)
    table = Table("block", "kind", "first id", "last id", "size", "tokenizer", box=None, header_style="bold")
    for block in vocabulary.blocks:
        first, last, size = (f"{number:,}" for number in (block.start, block.end - 1, block.size))
        colour = (
            COLOURS[(vocabulary.modality_names.index(block.modality) - 1) % len(COLOURS)] if block.level >= 0 else ""
        )
        table.add_row(block.name, block.kind, first, last, size, block.fingerprint, style=colour)
    console.print(f"vocabulary {vocabulary.fingerprint}: {vocabulary.size:,} ids")
    console.print(table)
    for modality in vocabulary.modalities:
        written = f", each code as {modality.factors} sub-codes" if modality.factors > 1 else ""
        spec = _spec(modality.spec.to_json())
        console.print(f"{modality.spec.modality}: stream {modality.stream}{written}, {spec}")


def _spec(spec: dict[str, Any]) -> str:
    axes = ", ".join(f"{axis['name']} {axis['length']} up to {axis['size']}" for axis in spec["axes"])
    return f"codes [{axes}] of {len(spec['levels'])} levels {spec['levels']}" + (
        f", {spec['rate']:g} per second" if spec["rate"] else ""
    )


def _shard(path: Path, console: Console) -> None:
    from dataclasses import asdict

    from anyglot.data.shards import read_shard

    info, _ = read_shard(path)
    _mapping(asdict(info), console)


def _store(path: Path, console: Console) -> None:
    from anyglot.data.shards import TokenStore

    store = TokenStore(path)
    console.print(
        f"{len(store):,} documents, {store.tokens:,} tokens in {len(store.shards)} shards, {store.fingerprint}"
    )
    console.print(f"vocabulary {store.vocabulary.fingerprint}, tokenizers {store.shards[0].tokenizers}")
    table = Table("modality", "documents", "spans", "tokens", "share", box=None, header_style="bold")
    for name, counts in store.statistics().items():
        share = counts["tokens"] / max(store.tokens, 1)
        table.add_row(name, *(f"{counts[key]:,}" for key in ("documents", "spans", "tokens")), f"{share:.1%}")
    console.print(table)
    for kind, count in _total(info.skipped for info in store.shards).items():
        console.print(f"skipped {count}: {kind}", style="yellow")
    for problem in islice((problem for info in store.shards for problem in info.problems), FIRST):
        console.print(f"  {problem['where']}: {problem['reason']}", style="yellow", markup=False)


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for key, number in each.items():
            total[key] = total.get(key, 0) + number
    return total


def _model(path: Path, console: Console) -> None:
    """A model directory or the root of tokenised data: what lies in it, then its vocabulary."""
    if (path / "config.json").is_file():
        config = json.loads((path / "config.json").read_text("utf-8"))
        kept = ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "dtype")
        _mapping({key: config[key] for key in kept if key in config}, console)
    if (path / "maskgit.json").is_file():
        _mapping(json.loads((path / "maskgit.json").read_text("utf-8")), console)
    for manifest in sorted(path.glob("tokenizers/*/manifest.json")):
        described = json.loads(manifest.read_text("utf-8"))
        console.print(f"tokenizer {manifest.parent.name}: {described['fingerprint']}")
    if (path / "manifest.json").is_file():
        for name, counts in json.loads((path / "manifest.json").read_text("utf-8")).get("sources", {}).items():
            console.print(
                f"source {name}: {counts['documents']:,} documents, {counts['tokens']:,} tokens", markup=False
            )
    if (path / "vocabulary.json").is_file():
        _vocabulary(path / "vocabulary.json", console)


def _documents(path: Path, document: int | None, console: Console) -> None:
    from anyglot.data.documents import Document
    from anyglot.data.readers import read, slices

    records = (record for part in slices(path) for record in read(part))
    first = 0 if document is None else document
    shown = list(islice(records, first, first + (FIRST if document is None else 1)))
    if not shown:
        raise AnyglotError(f"{path}: no document {first}" if document is not None else f"{path}: holds no document")
    for record in shown:
        if not isinstance(record, Document):
            console.print(f"{record.where}: {record.reason}", style="yellow", markup=False)
            continue
        console.print(Text(f"{record.id}  {record.split or ''}", style="bold"))
        answers = ("chosen ", "rejected ") if record.rejected else ("",)
        for answer, turns in zip(answers, (record.turns, record.rejected), strict=False):
            for role, parts in turns:
                for part in parts:
                    content = part.text if part.text is not None else str(part.path or "in the record itself")
                    label = f"  {answer}{role + ' ' if role else ''}{part.type}: "
                    console.print(Text(label, style="cyan").append(content, "none"))


def _mapping(value: dict[str, Any], console: Console) -> None:
    """Keys and values, nested ones indented."""

    def put(items: dict[str, Any], indent: str) -> None:
        for key, item in items.items():
            if isinstance(item, dict) and item:
                console.print(Text(f"{indent}{key}:", style="bold"))
                put(item, indent + "  ")
            else:
                console.print(
                    Text(f"{indent}{key}: ", style="bold").append(json.dumps(item, ensure_ascii=False), "none")
                )

    put(value, "")
