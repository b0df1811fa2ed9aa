import json
import multiprocessing
import signal
import subprocess
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
import pytest

from anyglot.data import tokenize
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.lm.grammar import Grammar
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.text import TextTokenizer
from tests.data.fakes import FakeImage, FakeSpeech, digest, load_fake, make_corpus, picture, save_fakes, save_png

PAIRS = [[a, b] for a in ("text", "image", "speech") for b in ("text", "image", "speech") if a != b]


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(tokenize, "load_tokenizer", load_fake)
    monkeypatch.setattr(FakeImage, "calls", 0)
    tokenize._encoder.cache_clear()


@pytest.fixture
def config(tmp_path):
    """Ten aligned documents in shards of three records."""
    corpus = make_corpus(tmp_path / "corpus", 10)
    shared = save_fakes(tmp_path / "tokenizers")
    base = {"out": str(tmp_path / "out"), "documents_per_shard": 3, "workers": 1, "batch": 2}
    return base | shared | {"sources": {"numbers": {"files": [str(corpus)]}}}


def stored(config, name="numbers"):
    """id -> turns of every document of a source."""
    store = TokenStore(Path(config["out"]) / name)
    grammar = Grammar(store.vocabulary)
    return {store.name(i): grammar.parse(store.ids(i)) for i in range(len(store))}


def problems(config):
    return [json.loads(line) for line in (Path(config["out"]) / "errors.jsonl").read_text().splitlines()]


def test_documents_become_their_own_codes(config, tmp_path):
    manifest = tokenize.run(config)
    documents = stored(config)
    text = TextTokenizer.from_pretrained(config["text"])
    assert list(documents) == [f"n{n}" for n in range(10)]
    for number in range(10):
        (turn,) = documents[f"n{number}"]
        words, image, speech = turn.spans
        assert text.decode(words.codes) == f"number {number}"
        assert np.array_equal(image.codes, FakeImage()._codes(picture(number, 8 * (1 + number % 3))))
        sound = FakeSpeech().read(tmp_path / "corpus" / f"{number}.wav")
        assert np.array_equal(speech.codes, FakeSpeech()._codes(sound))
    counts = manifest["sources"]["numbers"]
    assert (counts["documents"], counts["shards"], counts["skipped"]) == (10, 4, {})
    assert counts["tokens"] == TokenStore(Path(config["out"]) / "numbers").tokens
    assert manifest == json.loads((Path(config["out"]) / "manifest.json").read_text())
    assert manifest["tokenizers"]["image"] == "fake-image-1"
    assert problems(config) == []


def test_orders_encode_each_medium_once(config):
    config["sources"]["numbers"] |= {"orders": PAIRS, "split": "train"}
    manifest = tokenize.run(config)
    documents = stored(config)
    assert len(documents) == 8 * 6
    assert FakeImage.calls == 8
    assert manifest["sources"]["numbers"]["skipped"] == {"other split": 2}
    for number in (0, 1, 2, 3, 5):
        for order in PAIRS:
            (turn,) = documents[f"n{number}#{'-'.join(order)}"]
            assert [span.modality for span in turn.spans] == order


def test_an_order_is_not_made_of_a_document_that_lacks_a_modality(config, tmp_path):
    corpus = tmp_path / "corpus" / "numbers.jsonl"
    with corpus.open("a") as file:
        file.write(
            json.dumps({"id": "mute", "parts": [{"type": "text", "text": "x"}, {"type": "image", "path": "0.png"}]})
        )
    config["sources"]["numbers"]["orders"] = PAIRS
    tokenize.run(config)
    assert [name for name in stored(config) if name.startswith("mute")] == ["mute#text-image", "mute#image-text"]


def test_one_bad_file_is_reported_and_loses_nothing_else(config, tmp_path):
    corpus = tmp_path / "corpus"
    good = stored_after(config, tmp_path / "good")
    (corpus / "1.png").write_bytes((corpus / "1.png").read_bytes()[:60])  # truncated
    (corpus / "2.wav").write_bytes(b"")
    save_png(corpus / "4.png", 4, 12)  # not in whole blocks: fails in `encode`, with others in its batch
    save_png(corpus / "5.png", 5, 8 * 9)  # more rows than the vocabulary's spec allows
    lines = (corpus / "numbers.jsonl").read_text().splitlines()
    lines[6] = lines[6][:30]
    lines[7] = json.dumps({"id": "url", "parts": [{"type": "image", "image": "https://example.com/x.png"}]})
    (corpus / "numbers.jsonl").write_text("\n".join(lines))
    manifest = tokenize.run(config)
    assert {name: good[name] for name in ("n0", "n3", "n8", "n9")} == stored(config)
    found = {(problem["kind"], Path(problem["where"]).name): problem["reason"] for problem in problems(config)}
    assert "1.png" in found["unreadable image", "1.png"]
    assert "2.wav" in found["unreadable speech", "2.wav"]
    assert "12 x 16" in found["image cannot be encoded", "4.png"]
    assert "unreadable image" in found["skipped document", "numbers.jsonl:2"]
    assert "row" in found["skipped document", "numbers.jsonl:6"]
    assert "JSON" in found["malformed record", "numbers.jsonl:7"]
    assert "not fetched" in found["malformed record", "numbers.jsonl:8"]
    assert manifest["sources"]["numbers"]["skipped"]["skipped document"] == 4


def stored_after(config, out):
    tokenize.run(config | {"out": str(out)})
    return stored(config | {"out": str(out)})


def test_drop_part_keeps_the_rest_of_the_document(config, tmp_path):
    (tmp_path / "corpus" / "1.png").write_bytes(b"")
    config["sources"]["numbers"]["on_bad_media"] = "drop_part"
    tokenize.run(config)
    (turn,) = stored(config)["n1"]
    assert [span.modality for span in turn.spans] == ["text", "speech"]
    assert [problem["kind"] for problem in problems(config)] == ["unreadable image"]


def test_media_in_memory_chats_and_codes(config, tmp_path):
    path = tmp_path / "chat.jsonl"
    codes = {"type": "image", "codes": [[[5], [6]]], "tokenizer": "fake-image-1"}
    records = [
        {"messages": [{"role": "user", "content": "draw"}, {"role": "assistant", "content": [codes]}]},
        {"parts": [codes | {"tokenizer": "another"}]},
        {"parts": [codes | {"codes": [[[500]]]}]},
        {"parts": [{"type": "motion", "path": "x.npy"}]},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    config["sources"] = {"chat": {"files": [str(path)]}}
    tokenize.run(config)
    store = TokenStore(Path(config["out"]) / "chat")
    assert len(store) == 1
    user, assistant = Grammar(store.vocabulary).parse(store.ids(0))
    assert (user.role, assistant.role) == ("user", "assistant")
    assert assistant.spans[0].codes.tolist() == [[[5], [6]]]
    document = store[0]
    (span,) = [span for span in document.spans if span.modality == "image"]
    assert document.loss[span.start : span.start + span.length].all()
    assert not document.loss[: span.start].any()
    reasons = " ".join(problem["reason"] for problem in problems(config))
    for expected in ("tokenizer another, not fake-image-1", "500", "no tokenizer for motion"):
        assert expected in reasons


def test_long_text_is_cut_and_no_medium_is(config, tmp_path):
    text = "many words in a row " * 20
    image = {"type": "image", "path": str(tmp_path / "corpus" / "2.png")}  # 3 x 2 codes, 10 tokens
    records = [{"id": "long", "parts": [{"type": "text", "text": text}, image, {"type": "text", "text": text}]}]
    records += [{"id": "chat", "messages": [{"role": "user", "content": text}]}]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    config |= {"sources": {"long": {"files": [str(path)]}}, "max_document": 50}
    tokenize.run(config)
    store = TokenStore(Path(config["out"]) / "long")
    assert store.lengths.max() <= 50
    assert len(store) > 3
    tokenizer = TextTokenizer.from_pretrained(config["text"])
    spans = [span for turns in stored(config, "long").values() for span in turns[0].spans]
    (at,) = [i for i, span in enumerate(spans) if span.modality == "image"]
    for side in (spans[:at], spans[at + 1 :]):
        assert tokenizer.decode([i for span in side for i in span.codes.tolist()]) == text
    assert "chat longer than max_document" in problems(config)[0]["reason"]
    config |= {"out": str(tmp_path / "small"), "max_document": 9}
    with pytest.raises(AnyglotError, match="no document could be used"):
        tokenize.run(config)
    assert "image of 10 tokens does not fit" in problems(config)[0]["reason"]


def test_run_again_makes_only_what_changed(config, tmp_path):
    tokenize.run(config)
    before = digest(Path(config["out"]))
    assert FakeImage.calls == 10
    tokenize.run(config)
    assert FakeImage.calls == 10
    assert digest(Path(config["out"])) == before
    shard = Path(config["out"]) / "numbers" / "000001.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    tokenize.run(config)
    assert FakeImage.calls == 13
    assert digest(Path(config["out"])) == before
    corpus = tmp_path / "corpus" / "numbers.jsonl"
    corpus.write_text(corpus.read_text().replace("number 0", "NUMBER 0"))
    tokenize.run(config)
    text = TextTokenizer.from_pretrained(config["text"])
    assert text.decode(stored(config)["n0"][0].spans[0].codes) == "NUMBER 0"
    config["sources"]["numbers"]["split"] = "heldout"
    tokenize.run(config)
    assert list(stored(config)) == ["n4", "n9"]
    config["documents_per_shard"] = 10
    tokenize.run(config)
    assert [path.name for path in (Path(config["out"]) / "numbers").glob("*.arrow")] == ["000000.arrow"]


def test_killed_and_run_again_equals_uninterrupted(config, tmp_path):
    config["sources"]["numbers"]["orders"] = PAIRS
    uninterrupted = config | {"out": str(tmp_path / "whole")}
    tokenize.run(uninterrupted)
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.data.fakes", str(tmp_path / "config.json")]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    shards = Path(config["out"]) / "numbers"
    deadline = time.time() + 60
    while len(list(shards.glob("[0-9]*.arrow"))) < 2 and time.time() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = sorted(shards.glob("[0-9]*.arrow"))
    assert 2 <= len(left) < 4, "the child was not killed midway"
    assert not (Path(config["out"]) / "manifest.json").exists()
    (shards / ".000002.arrow.x1.arrow").write_bytes(b"half")  # what a kill during a write leaves
    FakeImage.calls = 0
    tokenize.run(config)
    assert 0 < FakeImage.calls < 10
    assert digest(Path(config["out"])) == digest(tmp_path / "whole")


def test_vocabularies_must_agree(config, tmp_path):
    tokenize.run(config)
    made = Vocabulary.load(config["out"])
    reused = config | {"vocabulary": config["out"], "out": str(tmp_path / "second")}
    tokenize.run(reused)
    assert Vocabulary.load(reused["out"]).fingerprint == made.fingerprint
    with pytest.raises(MismatchError, match=made.fingerprint):
        tokenize.run(config | {"streams": {"speech": "level"}})
    other = Vocabulary.build(made.text_size, made.text_fingerprint, [(FakeImage.spec, "other")])
    other.save(tmp_path / "vocabulary.json")
    with pytest.raises(MismatchError, match="other"):
        tokenize.run(
            config
            | {"vocabulary": str(tmp_path / "vocabulary.json"), "tokenizers": {"image": config["tokenizers"]["image"]}}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {"a": {"files": ["nothing-*.jsonl"]}}}, "no file matches 'nothing"),
        ({"sources": {"a": {"files": ["x"], "spilt": "train"}}}, "spilt"),
        ({"sources": {"a/b": {"files": ["x"]}}}, "plain file name"),
        ({"sources": {"a": {"files": ["x"], "on_bad_media": "explode"}}}, "explode"),
        ({"sources": {"a": {"files": ["x"], "schema": "part"}}}, "schema 'part'"),
        ({"sources": {"a": {"files": ["x"], "orders": [["text"]], "on_bad_media": "drop_part"}}}, "orders"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"max_document": 3}, "max_document"),
        ({"bacth": 2}, "did you mean 'batch'"),
    ],
)
def test_config_mistakes(config, change, message):
    with pytest.raises(ConfigError, match=message):
        tokenize.run(config | change)


def test_tokenizers_under_the_wrong_name_or_missing(config):
    swapped = {"image": config["tokenizers"]["speech"]}
    with pytest.raises(ConfigError, match="is a tokenizer for speech"):
        tokenize.run(config | {"tokenizers": swapped})
    with pytest.raises(AnyglotError, match="no tokenizer here"):
        tokenize.run(config | {"tokenizers": {"image": "nowhere"}})


def test_number_ranges_and_wildcards(tmp_path):
    from anyglot.data.sources import _files

    for number in range(8, 12):
        (tmp_path / f"a-{number:03d}.tar").touch()
    assert [Path(f).name for f in _files("s", [f"{tmp_path}/a-{{009..010}}.tar"])] == ["a-009.tar", "a-010.tar"]
    assert len(_files("s", [f"{tmp_path}/*.tar"])) == 4
    with pytest.raises(ConfigError, match="a-012.tar"):
        _files("s", [f"{tmp_path}/a-{{011..012}}.tar"])


def test_progress_is_there_for_other_programs(config):
    tokenize.run(config)
    lines = [json.loads(line) for line in (Path(config["out"]) / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["steps"]) for line in lines] == [(n, 4) for n in (1, 2, 3, 4)]
    assert lines[-1]["documents"] == 10


def test_text_in_several_processes_equals_one(config, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"text {n} " * (n % 7 + 1)}) for n in range(50)))
    config |= {"sources": {"text": {"files": [str(path)]}}, "tokenizers": {}, "documents_per_shard": 20}
    tokenize.run(config)
    two = config | {"out": str(tmp_path / "two"), "workers": 2}
    tokenize.run(two)
    assert digest(Path(config["out"])) == digest(Path(two["out"]))


def test_real_image_tokenizer_in_two_processes_equals_one(config, tmp_path, monkeypatch):
    import torch

    from anyglot.tokenizers.base import load_tokenizer
    from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
    from anyglot.tokenizers.networks.conv import ConvConfig

    monkeypatch.setattr(tokenize, "load_tokenizer", load_tokenizer)
    torch.manual_seed(0)
    network = ConvConfig(channels=[8, 8, 8], blocks=1, decoder_blocks=1, groups=8)
    ImageTokenizer(ImageConfig(network, {"type": "fsq", "sizes": [8, 8, 8, 5]})).save_pretrained(tmp_path / "real")
    config |= {"tokenizers": {"image": str(tmp_path / "real")}, "documents_per_shard": 5}
    config["sources"]["numbers"]["orders"] = [["text", "image"], ["image", "text"]]
    (tmp_path / "corpus" / "1.png").write_bytes(b"")
    manifest = tokenize.run(config)
    assert manifest["sources"]["numbers"]["documents"] == 18
    (turn,) = stored(config)["n2#text-image"]
    alone = load_tokenizer(tmp_path / "real").encode([picture(2, 24)])[0]
    assert np.array_equal(turn.spans[1].codes, alone.numpy())
    two = config | {"out": str(tmp_path / "two"), "workers": 2}
    tokenize.run(two)
    assert digest(Path(config["out"])) == digest(Path(two["out"]))


def test_a_killed_worker_is_one_clear_error(config, tmp_path, monkeypatch):
    def kill_workers_first(futures):
        for child in multiprocessing.active_children():
            child.kill()
        return as_completed(futures)

    monkeypatch.setattr(tokenize, "as_completed", kill_workers_first)
    with pytest.raises(AnyglotError, match="finished shards are kept: run the command again"):
        tokenize.run(config | {"workers": 2})


def test_a_large_shard_is_not_held_in_memory_at_once(config, monkeypatch):
    sizes = []
    encode = tokenize.Encoder.encode

    def counting(self, documents, *options):
        sizes.append(len(documents))
        return encode(self, documents, *options)

    monkeypatch.setattr(tokenize.Encoder, "encode", counting)
    tokenize.run(config | {"documents_per_shard": 100, "batch": 1})
    assert sizes == [8, 2]
    assert list(stored(config)) == [f"n{n}" for n in range(10)]
