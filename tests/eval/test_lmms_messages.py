"""What lmms-eval's tasks hold becomes the parts that files would: without lmms-eval."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot.data.documents import Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.eval.lmms_messages import answer_of, messages_of, part_of
from anyglot.inference.anyglot import Anyglot
from tests.inference.bundles import make_bundle, write_picture, write_sound


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Anyglot.load(make_bundle(tmp_path_factory.mktemp("model") / "model"))


def test_pictures_are_read_as_their_files_are(model, tmp_path):
    path = write_picture(tmp_path / "a.png")
    wanted = model.tokenizers["image"].read(path)
    for given in (Image.open(path), str(path), f"file://{path}"):
        part = part_of({"type": "image", "url": given})
        assert np.array_equal(model.tokenizers["image"].read(part.data), wanted)
    clear = Image.fromarray(np.zeros((6, 4, 4), np.uint8), "RGBA")
    assert model.tokenizers["image"].read(part_of({"type": "image", "url": clear}).data).min() == 255, "on white"
    printed = Image.open(path).convert("CMYK")
    assert part_of({"type": "image", "url": printed}).data


@pytest.mark.parametrize("as_file", [False, True])
def test_large_pictures_are_shrunk_where_that_is_asked_for(model, tmp_path, as_file):
    path = write_picture(tmp_path / "a.png", height=40, width=60)
    given = str(path) if as_file else Image.open(path)
    with pytest.raises(MediaError, match="60 x 40 pixels"):
        model.tokenizers["image"].read(part_of({"type": "image", "url": given}).data)
    small = Image.open(io.BytesIO(part_of({"type": "image", "url": given}, max_side=16).data))
    assert max(small.size) == 16


def test_sounds_of_datasets_and_files(model, tmp_path):
    path = write_sound(tmp_path / "a.wav", rate=1600)
    array, rate = soundfile.read(path, dtype="float32")
    wanted = model.tokenizers["speech"].read(path)
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=array[None], sample_rate=rate))
    for item in (
        {"type": "audio", "url": {"array": array, "sampling_rate": rate}},
        {"type": "video", "url": {"array": array, "sampling_rate": rate}},  # as lmms-eval calls it by itself
        {"type": "audio", "url": decoder},
        {"type": "audio", "url": str(path)},
    ):
        part = part_of(item)
        assert part.type == "speech"
        np.testing.assert_allclose(model.tokenizers["speech"].read(part.path or part.data), wanted, atol=1e-6)


def test_messages_of_a_chat_and_of_a_plain_document(tmp_path):
    path = write_picture(tmp_path / "a.png")
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "image", "url": str(path)}, {"type": "text", "text": "what is this?"}]},
    ]
    chat = messages_of(turns, chat=True)
    assert [(message.role, [part.type for part in message.parts]) for message in chat] == [
        ("system", ["text"]), ("user", ["image", "text"]),
    ]  # fmt: skip
    (plain,) = messages_of(turns, chat=False)
    assert (plain.role, [part.type for part in plain.parts]) == (None, ["text", "image", "text"])
    film = write_picture(tmp_path / "film.mp4.png").rename(tmp_path / "film.mp4")
    assert part_of({"type": "video", "url": str(film)}).path == film


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "image", "url": "https://example.org/a.png"}, "is not fetched"),
        ({"type": "audio", "url": "nowhere.wav"}, "nowhere.wav: no such file"),
        ({"type": "image", "url": 3}, "a picture given as int"),
        ({"type": "audio", "url": {"path": "a"}}, "a sound given as dict"),
        ({"type": "video", "url": ["a", "b"]}, "content of type 'video' given as list"),
        ({"type": "smell", "url": "a"}, "content of type 'smell'"),
    ],
)
def test_what_is_not_known_is_named(item, said):
    with pytest.raises(AnyglotError, match=said):
        part_of(item)
    with pytest.raises(AnyglotError, match="role 'tool' is not one of"):
        messages_of([{"role": "tool", "content": "x"}], chat=True)


def test_answers_are_text_or_name_their_files(model, tmp_path):
    text = [Part("text", text="a cat. Q: and"), Part("text", text=" this?")]
    assert answer_of(model, text, ["Q:"], tmp_path, "7") == "a cat. "
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    parts = [text[0], Part("image", data=picture), Part("speech", data=np.zeros(80, np.float32))]
    said = json.loads(answer_of(model, parts, [], tmp_path / "task", "7"))
    assert said["text"] == "a cat. Q: and"
    assert np.array_equal(np.asarray(Image.open(said["images"][0])), picture)
    assert said["speech"] == [str(tmp_path / "task" / "7-02-speech.wav")]
    nothing = [Part("image", data=None)]
    assert answer_of(model, nothing, [], tmp_path, "8") == "", "codes that stand for nothing are no picture"
