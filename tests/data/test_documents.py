import base64

import numpy as np
import pytest

from anyglot.data.documents import DocumentError, Message, Part, files_below, no_files, parse_message, parse_part

PNG = base64.b64encode(b"not really a png").decode()


@pytest.fixture
def here(tmp_path):
    return files_below(tmp_path)


def test_text_blocks_of_every_dialect(here):
    for kind in ("text", "input_text", "output_text"):
        assert parse_part({"type": kind, "text": "<image> stays text"}, here) == Part("text", text="<image> stays text")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "image", "base64": PNG},
        {"type": "image", "bytes": b"not really a png"},
        {"type": "image", "image": {"bytes": b"not really a png", "path": "x.png"}},
        {"type": "image", "url": f"data:image/png;base64,{PNG}"},
        {"type": "image", "image": f"data:image/png;base64,{PNG}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
        {"type": "image", "base64": PNG, "path": None},  # Parquet writes absent keys as None
    ],
)
def test_the_same_picture_in_every_form(value, here):
    part = parse_part(value, here)
    assert (part.type, part.data) == ("image", b"not really a png")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
        {"type": "audio", "base64": PNG},
        {"type": "speech", "url": f"data:audio/wav;base64,{PNG}"},
    ],
)
def test_sound_by_any_name_is_speech(value, here):
    part = parse_part(value, here)
    assert (part.type, part.data) == ("speech", b"not really a png")


def test_paths_are_below_the_folder(here, tmp_path):
    for value in ({"type": "image", "path": "a/b.png"}, {"type": "image", "image": "a/b.png"}):
        assert parse_part(value, here).path == tmp_path / "a/b.png"


def test_codes_and_loss(here):
    part = parse_part({"type": "image", "codes": [[[1], [2]]], "tokenizer": "f", "loss": False}, here)
    assert part.codes.dtype == np.int64
    assert part.codes.shape == (1, 2, 1)
    assert (part.tokenizer, part.loss) == ("f", False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}, "not fetched"),
        ({"type": "image", "image": "http://example.com/cat.png"}, "not fetched"),
        ({"type": "image", "path": "file:///etc/passwd"}, "not fetched"),
        ({"type": "hologram", "path": "x"}, "unknown part type 'hologram'"),
        ({"type": "image"}, "found none"),
        ({"type": "image", "path": "a.png", "base64": PNG}, "found path, base64"),
        ({"type": "image", "base64": "!!"}, "base64"),
        ({"type": "image", "url": "data:image/png,plain"}, "base64"),
        ({"type": "image", "codes": [[1], [2, 3]]}, "rectangular"),
        ({"type": "image", "codes": [[0.5]]}, "whole numbers"),
        ({"type": "text", "text": 3}, "string under 'text'"),
        ({"type": "text", "text": "x", "loss": "no"}, "'loss'"),
        ("text", "must be an object"),
    ],
)
def test_what_is_wrong_is_said(value, message, here):
    with pytest.raises(DocumentError, match=message):
        parse_part(value, here)


def test_strangers_name_no_files():
    with pytest.raises(DocumentError, match="files cannot be named"):
        parse_part({"type": "image", "path": "/etc/passwd"}, no_files)


def test_messages_and_who_learns_what(here):
    message = parse_message({"role": "developer", "content": "be kind"}, here)
    assert message == Message("system", [Part("text", text="be kind")])
    assert not message.learned(message.parts[0])
    answer = parse_message({"role": "assistant", "content": [{"type": "text", "text": "a", "loss": False}]}, here)
    assert not answer.learned(answer.parts[0])
    assert answer.learned(Part("text", text="b"))
    assert Message(None, []).learned(Part("text", text="b"))
    muted = parse_message({"role": "assistant", "content": "no", "loss": False}, here)
    assert not muted.learned(muted.parts[0])
    with pytest.raises(DocumentError, match="role 'wizard'"):
        parse_message({"role": "wizard", "content": "x"}, here)
    with pytest.raises(DocumentError, match="NoneType"):
        parse_message({"role": "user", "content": None}, here)


def test_key_tells_media_apart(tmp_path):
    same = [Part("image", data=b"a"), Part("image", data=b"a")]
    other = [Part("image", data=b"b"), Part("speech", data=b"a"), Part("image", path=tmp_path)]
    assert same[0].key == same[1].key
    assert len({part.key for part in same + other}) == 4


def test_what_a_file_would_hold_can_stand_in_the_document(here):
    part = parse_part({"type": "graph", "content": "CCO"}, here)
    assert (part.type, part.data, part.path) == ("graph", b"CCO", None)
    assert not part.in_memory
    with pytest.raises(DocumentError, match="graph: 'content' holds a lone surrogate .* at character 2"):
        parse_part({"type": "graph", "content": "CC\ud800"}, here)


def test_media_in_memory_need_be_no_arrays():
    atoms = ["C", "C", "O"]
    first, again, other = (Part("graph", data=data) for data in (atoms, atoms, list(atoms)))
    assert first.in_memory
    assert first.key == again.key != other.key  # the object itself, whatever is equal to it
