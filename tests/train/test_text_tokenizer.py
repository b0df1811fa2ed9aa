"""The text stage, from files of documents to a tokenizer directory."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from anyglot.config import load_mapping
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train.text_tokenizer import run

NAMES = ["grinning face", "red heart", "thumbs up", "party popper", "rocket", "smiling cat with heart eyes"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Documents with text and media, of two splits and of none, and a broken line."""
    records: list[Any] = []
    for number, name in enumerate(NAMES * 4):
        image = {"type": "image", "path": f"{number}.png"}
        records.append({"id": name, "split": "train", "parts": [{"type": "text", "text": name}, image]})
    records.append({"split": "heldout", "parts": [{"type": "text", "text": "zzyzx zzyzx zzyzx " * 50}]})
    records.append({"messages": [{"role": "user", "content": "quokka quokka " * 20}]})
    lines = [json.dumps(record) for record in records]
    lines.insert(3, '{"parts": [')
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def mapping(corpus: Path, **changes: Any) -> dict[str, Any]:
    out = corpus.parent / "text"
    return {"stage": "text_tokenizer", "data": [str(corpus)], "out": str(out), "size": 320, **changes}


def test_trains_on_the_split_only_and_is_not_repeated(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(mapping(corpus), "test")
    assert "line 4" in caplog.text or ":4" in caplog.text, "the broken line is reported with its place"
    directory = corpus.parent / "text" / "tokenizer"
    tokenizer = TextTokenizer.from_pretrained(directory)
    done = json.loads((corpus.parent / "text" / "done.json").read_text())
    assert (tokenizer.size, tokenizer.fingerprint) == (320, done["fingerprint"])
    assert len(tokenizer.encode("quokka")) <= 3, "documents that state no split are learned from"
    assert len(tokenizer.encode("zzyzx")) == 5, "held-out documents are not"
    before = (directory / "manifest.json").stat().st_mtime_ns
    run(mapping(corpus), "test")
    assert (directory / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(MismatchError, match="'size'"):
        run(mapping(corpus, size=310), "test")
    del done["config"]["document"]  # as by a version that had no such field
    (corpus.parent / "text" / "done.json").write_text(json.dumps(done))
    run(mapping(corpus), "test")
    assert (directory / "manifest.json").stat().st_mtime_ns == before


def test_max_characters_limits_what_is_read(corpus: Path) -> None:
    run(mapping(corpus, max_characters=500, size=280), "test")
    assert json.loads((corpus.parent / "text" / "done.json").read_text())["characters"] == 500


def test_takes_over_a_hugging_face_tokenizer(corpus: Path, tmp_path: Path) -> None:
    original = Tokenizer(models.BPE())
    original.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    original.train_from_iterator(
        NAMES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    (tmp_path / "hf").mkdir()
    original.save(str(tmp_path / "hf" / "tokenizer.json"))
    run(mapping(corpus, data=[], huggingface=str(tmp_path / "hf")), "test")
    tokenizer = TextTokenizer.from_pretrained(corpus.parent / "text" / "tokenizer")
    assert tokenizer.encode("red heart") == original.encode("red heart").ids


def test_clear_errors(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="either `data`"):
        run(mapping(corpus, data=[]), "test")
    for wrong in ({"document": ["<s>", "</s>"]}, {"data": [], "huggingface": "x", "document": ["<s>"]}):
        with pytest.raises(ConfigError, match="`document` names two tokens of `huggingface`"):
            run(mapping(corpus, **wrong), "test")
    documents = corpus.with_name("heldout.jsonl")
    documents.write_text('{"split": "heldout", "parts": [{"type": "text", "text": "a"}]}\n')
    with pytest.raises(AnyglotError, match="no text of split 'validation'"):
        run(mapping(corpus, data=[str(documents)], split="validation"), "test")
    with pytest.raises(AnyglotError, match="5000 text ids cannot be trained from"):
        run(mapping(corpus, size=5000), "test")


def test_the_demo_config_is_one_of_this_stage(tmp_path: Path) -> None:
    demo = load_mapping("demo/text")
    assert demo["stage"] == "text_tokenizer"
    demo |= {"data": [], "huggingface": str(tmp_path), "out": str(tmp_path / "out")}
    with pytest.raises(AnyglotError, match="tokenizer.json"):
        run(demo, "demo/text")
