"""MovieLens-100k out of the recbole package, or any data set in RecBole's atomic files, as documents of items.

Written below the output folder:
    items.jsonl             a document per item: its text, and the item with its id and text. Split "heldout": items
                            that the tokenizer does not learn from, which meet it as new ones
    histories.jsonl         a document per history: its items, oldest first. Split "train": windows without the last
                            two; "valid", "test": all but the last, or all, loss on the last item alone
    tasks.jsonl             LC-Rec's other tasks, all "train": text to item, item to text, titles of a history to the
                            next item
    collaborative.safetensors   `vectors` fp32 [items, width] from training histories, of the items of split "train", in
                            the order of items.jsonl
    movielens.json          the config, hashes of what it is made of, and counts; written last
Items are named by their id alone where the tokenizer learns them, held-out ones bring their text.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.atomic import read_atomic
from anyglot.data.corpora.names import split_of
from anyglot.data.histories import HELD, Histories, collaborative_vectors, make_histories, windows
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import atomic_path, write_json, write_text

ASSET = "recbole"
MEMBERS = "recbole/dataset_example/ml-100k/ml-100k."


@dataclass
class MovieLensCorpus:
    """Fields of configs/corpora/movielens.yaml; see there."""

    inter: str = ""
    item: str = ""
    text: str = "{movie_title} ({release_year}). Genres: {class}"
    window: int = 50
    step: int = 25
    heldout_one_in: int = 20
    collaborative: int = 32
    titles: int = 5

    def __post_init__(self) -> None:
        if bool(self.inter) != bool(self.item):
            raise ConfigError("inter and item: name both files, or none for MovieLens-100k")
        if not 1 <= self.step <= self.window or self.window < 2 or self.collaborative < 1 or self.titles < 1:
            raise ConfigError("window must be 2 or more, step 1 to window, collaborative and titles 1 or more")
        if self.heldout_one_in < 0 or self.heldout_one_in == 1:
            raise ConfigError("heldout_one_in must be 0 (none) or 2 or more")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Write the corpus to `out`; a finished folder of the same settings and files is left as it is.

    Raises:
        ConfigError: a mistake in the config. AssetError: the package cannot be had. AnyglotError: an item without
        text, an id that occurs twice, or an interaction with an item that is not there.
    """
    config = typed(MovieLensCorpus, mapping, where)
    own = {path: hashlib.sha256(_bytes(path)).hexdigest() for path in (config.inter, config.item) if path}
    described: dict[str, Any] = {
        "config": to_mapping(config),
        "assets": {} if own else {ASSET: assets.find(ASSET).sha256},
        "files": own,
    }
    record = out / "movielens.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    inter, item = (_source(config, kind) for kind in ("inter", "item"))
    texts = item_texts(read_atomic(item[0], ["item_id"], item[1]), config.text, item[1])
    table = read_atomic(inter[0], ["user_id", "item_id", "timestamp"], inter[1])
    histories = make_histories(table, list(texts), inter[1])
    splits = {item: _split(item, config.heldout_one_in) for item in texts}
    parts = {item: item_part(item, texts[item], splits[item] == "train") for item in texts}
    counts = {
        "items.jsonl": _write(out / "items.jsonl", item_documents(texts, splits)),
        "histories.jsonl": _write(out / "histories.jsonl", history_documents(histories, parts, config)),
        "tasks.jsonl": _write(out / "tasks.jsonl", task_documents(histories, texts, parts, config)),
    }
    learned = [splits[item] == "train" for item in histories.items]
    _save(out / "collaborative.safetensors", collaborative_vectors(histories, config.collaborative)[learned])
    write_json(record, {**described, "counts": {**counts, "users": len(histories.users)}})


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AnyglotError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _source(config: MovieLensCorpus, kind: str) -> tuple[bytes, str]:
    path = getattr(config, kind)
    return (_bytes(path), path) if path else (assets.open_member(ASSET, MEMBERS + kind), f"ml-100k.{kind}")


def item_texts(table: Any, template: str, name: str) -> dict[str, str]:
    """id -> text of every item, by a template over the columns. Raises AnyglotError for one without text, or twice."""
    texts: dict[str, str] = {}
    columns = [column for column in table if column != "item_id"]
    for row, item in enumerate(table["item_id"]):
        cells = {c: " ".join(map(str, v)) if isinstance(v := table[c][row], list) else str(v) for c in columns}
        if not item or item in texts:
            raise AnyglotError(f"{name}: item id {item!r} in row {row + 1} is empty or occurs twice; give each its own")
        try:
            text = template.format_map(cells)
            blank = template.format_map(dict.fromkeys(cells, ""))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ConfigError(f"text: {error} in {template!r} is no column of {name}: {', '.join(columns)}") from error
        if text == blank:
            raise AnyglotError(f"{name}: item {item!r} has no text; fill its row, or leave the item out")
        texts[item] = text.replace(" ()", "")
    return texts


def item_part(item: str, text: str, known: bool, **more: Any) -> dict[str, Any]:
    """An item as a document has it: its id where the tokenizer knows it, else with its text."""
    content = item if known else json.dumps({"id": item, "text": text}, ensure_ascii=False)
    return {"type": "item", "content": content, **more}


def item_documents(texts: dict[str, str], splits: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A document per item, its text first; the item brings id and text, of which a catalogue is made."""
    for item, text in texts.items():
        parts = [{"type": "text", "text": text}, item_part(item, text, known=False)]
        yield {"id": item, "split": splits[item], "parts": parts}


def history_documents(
    histories: Histories, parts: dict[str, dict[str, Any]], config: MovieLensCorpus
) -> Iterator[dict[str, Any]]:
    """Windows for training, and one document each for validation and test."""
    for user, history in zip(histories.users, histories.of, strict=True):
        named = [parts[histories.items[index]] for index in history]
        for start, stop in windows(len(named) - HELD, config.window, config.step):
            yield {"id": f"{user}:{start}", "split": "train", "parts": named[start:stop]}
        for split, stop in (("valid", len(named) - 1), ("test", len(named))):
            before = [{**part, "loss": False} for part in named[: stop - 1]]
            yield {"id": user, "split": split, "parts": [*before, named[stop - 1]]}


def task_documents(
    histories: Histories, texts: dict[str, str], parts: dict[str, dict[str, Any]], config: MovieLensCorpus
) -> Iterator[dict[str, Any]]:
    """What ties items to words (LC-Rec): each item after its text and before it, and the next item after titles."""
    for item, text in texts.items():
        words = {"type": "text", "text": text}
        yield {"id": f"{item}#text-item", "split": "train", "parts": [{**words, "loss": False}, parts[item]]}
        yield {"id": f"{item}#item-text", "split": "train", "parts": [{**parts[item], "loss": False}, words]}
    for user, history in zip(histories.users, histories.training(), strict=True):
        for stop in range(len(history) - 1, config.titles - 1, -config.titles):
            told = "\n".join(texts[histories.items[index]] for index in history[stop - config.titles : stop])
            titles = {"type": "text", "text": told, "loss": False}
            wanted = parts[histories.items[history[stop]]]
            yield {"id": f"{user}:{stop}#titles-item", "split": "train", "parts": [titles, wanted]}


def _split(item: str, one_in: int) -> str:
    return split_of(item, one_in) if one_in else "train"


def _write(path: Path, documents: Iterator[dict[str, Any]]) -> int:
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def _save(path: Path, vectors: np.ndarray) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({"vectors": torch.from_numpy(vectors.copy())}, temporary)
