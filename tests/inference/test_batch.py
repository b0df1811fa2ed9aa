"""`anyglot generate --prompts`: every document answered, by itself, and written as a document."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot.cli import main
from anyglot.data.readers import read, slices
from anyglot.errors import MediaError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decoder import Decoder
from anyglot.tokenizers.image import ImageTokenizer
from tests.inference.bundles import make_bundle, write_picture, write_sound

CHAT = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "a red kite"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(tmp_path):
    write_picture(tmp_path / "cat.png")
    write_sound(tmp_path / "cat.wav")
    return tmp_path


def answer(bundle, folder, documents, *words, out="out"):
    """Exit code, and the answers by the ids of their documents."""
    lines = [line if isinstance(line, str) else json.dumps(line) for line in documents]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    command = [
        "generate",
        bundle,
        "--prompts",
        folder / "prompts.jsonl",
        "--out",
        folder / out,
        "max_tokens=30",
        *words,
    ]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in command])
    replies = (folder / out / "replies.jsonl").read_text().splitlines()
    return ended.value.code, {record["id"]: record for record in map(json.loads, replies)}


def test_every_kind_of_document_is_answered(bundle, folder):
    documents = [
        {"id": "words", "parts": [{"type": "text", "text": "black cat"}]},
        {"id": "media", "parts": [{"type": "image", "path": "cat.png"}, {"type": "speech", "path": "cat.wav"}]},
        {"id": "chat", "messages": CHAT[:1]},
    ]
    code, replies = answer(bundle, folder, documents, "--to", "image")
    assert code == 0
    assert list(replies) == ["words", "media", "chat"]
    assert [part["path"] for part in replies["media"]["parts"]] == ["00001-00-image.png"]
    (message,) = replies["chat"]["messages"]
    assert (message["role"], message["content"][0]["type"]) == ("assistant", "image")
    for name in ("00000-00-image.png", "00001-00-image.png", "00002-00-image.png"):
        with Image.open(folder / "out" / name) as picture:
            picture.load()


def test_answers_are_documents_again(bundle, folder):
    documents = [{"id": str(n), "parts": [{"type": "text", "text": "a"}]} for n in range(6)]
    code, replies = answer(bundle, folder, documents)
    assert code == 0
    (piece,) = slices(folder / "out" / "replies.jsonl")
    for document in read(piece):
        kinds = [part["type"] for part in replies[document.id]["parts"]]
        assert [part.type for part in document.turns[0].parts] == kinds
        for part in document.turns[0].parts:
            if part.type == "speech":
                assert soundfile.info(part.path).samplerate == 800


def test_an_answer_depends_on_no_other_and_not_on_the_batch(bundle, folder):
    documents = [{"id": str(n), "parts": [{"type": "text", "text": "a" * n}]} for n in range(1, 6)]
    of_one, of_many = (
        answer(bundle, folder, documents, "--to", "text", "--batch", size, "--seed", 5, out=f"out{size}")[1]
        for size in (1, 3)
    )
    assert of_one == of_many
    assert len({reply["parts"][0]["text"] for reply in of_one.values()}) > 1


def test_a_chat_that_ends_with_an_answer_is_answered_without_it(bundle, folder):
    documents = [{"id": "asked", "messages": CHAT[:1]}, {"id": "answered", "messages": CHAT}]
    _, replies = answer(bundle, folder, documents, "--to", "text", "temperature=0")
    assert replies["asked"]["messages"] == replies["answered"]["messages"]


def test_what_was_answered_is_kept_when_the_rest_is_interrupted(bundle, folder, monkeypatch):
    ended = []
    read = Anyglot.read

    def interrupted(self, prompt, ids):
        ended.append(ids)
        if len(ended) == 3:
            raise KeyboardInterrupt
        return read(self, prompt, ids)

    monkeypatch.setattr(Anyglot, "read", interrupted)
    documents = [{"id": str(n), "parts": [{"type": "text", "text": "a"}]} for n in range(5)]
    code, replies = answer(bundle, folder, documents, "--to", "image", "--batch", 1, "guidance=2")
    assert code == 130
    assert list(replies) == ["0", "1"]


def test_the_same_command_goes_on_where_it_was_killed(bundle, folder, monkeypatch):
    documents = [{"id": str(n), "parts": [{"type": "text", "text": "a" * n}]} for n in range(1, 7)]
    _, whole = answer(bundle, folder, documents, "--seed", 3, out="whole")
    asked = []
    request = Anyglot.request

    def told(self, messages, to, max_tokens, seed, guidance):
        asked.append(seed)
        if len(asked) == 4 and not (folder / "out" / "replies.jsonl").exists():
            raise KeyboardInterrupt
        return request(self, messages, to, max_tokens, seed, guidance)

    monkeypatch.setattr(Anyglot, "request", told)
    code, begun = answer(bundle, folder, documents, "--seed", 3, "--batch", 1)
    assert code == 130
    assert set(begun) < set(whole)
    journal = folder / "out" / "journal.jsonl"
    kept = len(journal.read_text().splitlines()) - 1
    assert kept == len(begun) > 0
    (folder / "out" / "replies.jsonl").unlink()  # as if it had been killed before it could be written
    with journal.open("a") as file:
        file.write('[5, "torn')
    times = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("0*")}
    asked.clear()
    asked += [None] * 4
    code, found = answer(bundle, folder, documents, "--seed", 3, "--batch", 4)
    assert (code, found) == (0, whole)
    assert asked[4:] == [3 + n for n in range(6) if str(n + 1) not in begun]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())  # finished media stay as they are
    asked.clear()
    assert answer(bundle, folder, documents, "--seed", 3)[1] == whole
    assert asked == []


def test_what_failed_is_new_or_was_changed_is_asked_again(bundle, folder, capsys):
    def words(text):
        return {"id": text, "parts": [{"type": "text", "text": text}]}

    lost = {"id": "lost", "parts": [{"type": "image", "path": "lost.png"}]}
    before = answer(bundle, folder, ["{no json", words("a"), lost, words("b"), words("c")], "--to", "text")[1]
    write_picture(folder / "lost.png")
    code, found = answer(bundle, folder, [words("d"), words("a"), lost, words("e")], "--to", "text")
    assert (code, list(found)) == (0, ["d", "a", "lost", "e"])
    assert found["a"] == before["a"]
    assert "4 answers" in capsys.readouterr().out.splitlines()[-1]
    fresh = answer(bundle, folder, [words("d"), words("a"), lost, words("e")], "--to", "text", out="fresh")[1]
    assert found == fresh


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", 1], "answers of seed 0, not of 1; give another --out"),
        (["--to", "image"], "answers of to None, not of 'image'"),
        (["temperature=0.5"], "answers of temperature 1.0, not of 0.5"),
        (["sampling.image.top_k=3"], "answers of sampling {}"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(bundle, folder, capsys, words, message):
    documents = [{"id": "a", "parts": [{"type": "text", "text": "a"}]}]
    before = answer(bundle, folder, documents)[1]
    capsys.readouterr()
    assert answer(bundle, folder, documents, *words) == (2, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"journal.jsonl: holds {message}" in line


def test_answers_of_another_model_are_not_mixed(bundle, folder, capsys, tmp_path_factory):
    documents = [{"id": "a", "parts": [{"type": "text", "text": "a"}]}]
    answer(bundle, folder, documents, "--to", "text")
    other = make_bundle(tmp_path_factory.mktemp("other"), seed=1)
    assert answer(other, folder, documents, "--to", "text")[0] == 2
    assert "holds answers of checkpoint" in capsys.readouterr().err


def test_no_more_memory_is_set_aside_than_prompts_can_come_to_need(bundle, folder, monkeypatch):
    made = []
    reader = Decoder.reader
    monkeypatch.setattr(Decoder, "reader", lambda self, *words: made.append(reader(self, *words)) or made[-1])
    documents = [{"id": str(n), "parts": [{"type": "text", "text": "a" * 10 * n}]} for n in range(4)]
    assert answer(bundle, folder, documents, "--to", "text")[0] == 0
    assert 0 < made[0].cache.length < 512  # which the model has


def test_what_cannot_be_answered_is_named_and_costs_no_other(bundle, folder, capsys):
    documents = [
        {"id": "first", "parts": [{"type": "text", "text": "a cat"}]},
        "{no json",
        {"id": "lost", "parts": [{"type": "image", "path": "no.png"}]},
        {"id": "long", "parts": [{"type": "text", "text": "x" * 2000}]},
        {"id": "last", "parts": [{"type": "text", "text": "a dog"}]},
    ]
    code, replies = answer(bundle, folder, documents, "--to", "image")
    assert code == 2
    assert list(replies) == ["first", "last"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    for line, reason in zip(said, ("not valid JSON", "no.png", "leaves no room", "3 documents of"), strict=True):
        assert reason in line
    assert "prompts.jsonl:2" in said[0]
    assert "prompts.jsonl:4" in said[2]


def test_a_chat_without_a_question_is_named(bundle, folder, capsys):
    documents = [{"id": "answered", "messages": CHAT[1:]}, {"id": "asked", "messages": CHAT}]
    code, replies = answer(bundle, folder, documents)
    assert (code, list(replies)) == (2, ["asked"])
    assert "prompts.jsonl:1: a chat without a question" in capsys.readouterr().err


def test_codes_that_stand_for_nothing_are_kept(bundle, folder, monkeypatch):
    def refuse(*_):
        raise MediaError("no such picture")

    monkeypatch.setattr(ImageTokenizer, "decode", refuse)
    _, replies = answer(bundle, folder, [{"id": "a", "parts": [{"type": "text", "text": "a"}]}], "--to", "image")
    (part,) = replies["a"]["parts"]
    assert np.array(part["codes"]).ndim == 3
    assert part["tokenizer"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--to", "video"], "this model writes no 'video'"), (["--prompts", "no.jsonl"], "no.jsonl: no such file")],
)
def test_what_no_document_could_mend_is_said_once(bundle, folder, capsys, words, message):
    (folder / "prompts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(bundle), "--prompts", str(folder / "prompts.jsonl"), "--out", str(folder / "o"), *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "o").exists()


def test_parts_and_prompts_are_one_or_the_other(bundle, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(bundle), "--text", "a", "--prompts", str(folder / "prompts.jsonl")])
    assert ended.value.code == 2
    assert "not both" in capsys.readouterr().err
