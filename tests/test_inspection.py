import io
import json

import numpy as np
import pytest
from rich.console import Console

from anyglot.data.shards import ShardInfo, write_shard
from anyglot.errors import AnyglotError, MismatchError
from anyglot.inspection import coloured, show
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.quantizers import store
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.text import TextTokenizer

IMAGE = CodeSpec("image", (16,), (Axis("row", "sized", 4), Axis("column", "sized", 4)))
SPEECH = CodeSpec("speech", (8, 8), (Axis("time", "open", 50),), rate=50.0)


@pytest.fixture(scope="module")
def words() -> TextTokenizer:
    return TextTokenizer.train(["a black cat sat on a mat, a white dog ran"] * 20, 300)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, words):
    """A folder of one shard with one document: the words, a 2 x 2 picture, 3 frames of speech."""
    folder = tmp_path_factory.mktemp("tokens") / "emoji"
    vocabulary = Vocabulary.build(words.size, words.fingerprint, [(IMAGE, "f-image"), (SPEECH, "f-speech")])
    picture = np.array([[[3], [1]], [[4], [1]]])
    spans = [
        Span("text", np.array(words.encode("black cat")), loss=False),
        Span("image", picture),
        Span("speech", np.array([[1, 2], [3, 4], [5, 6]])),
    ]
    document = Grammar(vocabulary).serialise([Turn(None, spans)])
    info = ShardInfo(
        "job", vocabulary.fingerprint, {"text": words.fingerprint}, {"file": "f"}, list(vocabulary.modality_names)
    )
    info.skipped, info.problems = {"damaged": 1}, [{"where": "f:7", "kind": "damaged", "reason": "truncated PNG"}]
    write_shard(folder / "00000.arrow", [("black_cat", document)], info)
    vocabulary.save(folder.parent)
    manifest = {"sources": {"emoji": {"documents": 1, "tokens": len(document.ids)}}}
    (folder.parent / "manifest.json").write_text(json.dumps(manifest))
    words.save_pretrained(folder.parent / "tokenizers" / "text")
    return folder


def shown(*arguments) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(*arguments, console=console)
    return console.file.getvalue()


def test_a_document_is_shown_token_by_token(shards):
    printed = shown(shards, 0)
    assert "[bos] black cat <image> [size 2] [size 2] 3 1 4 1 </image>" in printed
    assert "<speech> 1 2 3 4 5 6 </speech> [eos]" in printed
    assert "black_cat" in printed


def test_colours_tell_modality_level_and_loss(shards, words):
    vocabulary = Vocabulary.load(shards.parent)
    ids = [
        vocabulary.opener("image"),
        vocabulary.named_blocks["image.0"].start + 7,
        vocabulary.named_blocks["speech.1"].start,
    ]
    line = coloured(ids, [True, True, False], vocabulary, words)
    opener, image, speech = (str(span.style) for span in line.spans)
    assert opener == "reverse cyan"
    assert image == "cyan bold"
    assert speech == "magenta dim"
    assert line.plain == " <image> 7 0 "


def test_a_foreign_text_tokenizer_is_refused(shards, tmp_path):
    TextTokenizer.train(["quite another text about nothing"] * 20, 290).save_pretrained(tmp_path / "text")
    with pytest.raises(MismatchError, match="text tokenizer has fingerprint"):
        shown(shards, 0, tmp_path / "text")


def test_without_its_text_tokenizer_ids_are_shown(shards, words, tmp_path):
    import shutil

    shutil.copytree(shards.parent, tmp_path / "alone", ignore=shutil.ignore_patterns("tokenizers"))
    TextTokenizer.train(["another text"] * 20, 280).save_pretrained(tmp_path / "alone" / "text")  # not the vocabulary's
    ids = " ".join(map(str, words.encode("black cat")))
    assert f"[bos] {ids}  <image>" in shown(tmp_path / "alone" / "emoji", 0)


def test_a_shard_folder_shows_counts_and_what_was_skipped(shards):
    printed = shown(shards)
    assert "1 documents" in printed
    assert "skipped 1: damaged" in printed
    assert "f:7: truncated PNG" in printed


def test_a_vocabulary_shows_its_blocks_without_gaps(shards):
    printed = shown(shards.parent / "vocabulary.json")
    vocabulary = Vocabulary.load(shards.parent)
    for block in vocabulary.blocks:
        assert any(line.split()[:3] == [block.name, block.kind, f"{block.start:,}"] for line in printed.splitlines())
    assert "50 per second" in printed


def test_the_root_of_tokenised_data_lists_sources_and_tokenizers(shards, words):
    printed = shown(shards.parent)
    assert f"tokenizer text: {words.fingerprint}" in printed
    assert "source emoji: 1 documents" in printed
    assert "image.control" in printed


def test_a_shard_file_shows_its_provenance(shards):
    assert "vocabulary: " in shown(shards / "00000.arrow")


def test_a_tokenizer_directory_shows_its_manifest(shards, words):
    assert words.fingerprint in shown(shards.parent / "tokenizers" / "text")


def test_a_runs_folder_shows_its_result(tmp_path, words):
    words.save_pretrained(tmp_path / "tokenizer")
    assert words.fingerprint in shown(tmp_path)


def test_a_model_shows_its_architecture_and_vocabulary(shards, tmp_path):
    Vocabulary.load(shards.parent).save(tmp_path / "model")
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "eos_token_id": 3}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    printed = shown(tmp_path)
    assert "Qwen3ForCausalLM" in printed
    assert "hidden_size: 64" in printed
    assert "speech.1" in printed


def test_a_document_file_shows_its_parts_and_its_faults(tmp_path):
    lines = [
        {
            "id": "one",
            "split": "train",
            "parts": [{"type": "text", "text": "[bold]cat"}, {"type": "image", "path": "cat.png"}],
        },
        {"parts": [{"type": "smell"}]},
        {"prompt": "which?", "chosen": "the right one", "rejected": "the wrong one"},
    ]
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    printed = shown(path)
    assert "text: [bold]cat" in printed  # markup in data is data
    assert str(tmp_path / "cat.png") in printed.replace("\n", "")
    assert "smell" in printed
    assert "chosen text: the right one" in printed
    assert "rejected text: the wrong one" in printed


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("nothing", None, "no such file"),
        ("empty", None, "no manifest.json"),
        ("tokens", 1, "no document 1, there are 1"),
    ],
)
def test_what_cannot_be_shown_is_said(shards, tmp_path, name, document, message):
    (tmp_path / "empty").mkdir()
    path = shards if name == "tokens" else tmp_path / name
    with pytest.raises(AnyglotError, match=message):
        shown(path, document)


def test_a_quantizer_s_run_shows_its_health(tmp_path):
    quantizer = {"type": "vq", "size": 4, "kmeans_init": False}
    store.save(quantizers.build(quantizer, 3), quantizer, tmp_path / "run" / "quantizer")
    level = {"size": 4, "usage": 0.75, "dead": 1, "perplexity": 2.8, "bits": 1.5}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"bits": 2, "relative_error": 0.25, "health": [level]}))
    printed = shown(tmp_path / "run")
    assert "size: 4" in printed
    assert "held-out error 25.0%" in printed
    assert "75.0%" in printed
