"""`anyglot chat`: what is typed, what is attached, what is answered, and that no mistake ends the conversation."""

import builtins
import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from rich.console import Console

from anyglot.data.documents import Part
from anyglot.errors import MediaError
from anyglot.inference import chat
from anyglot.inference.anyglot import Anyglot
from anyglot.tokenizers.image import ImageTokenizer
from tests.inference.bundles import make_bundle, write_picture, write_sound


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder with a picture, a sound, and names that are hard to type."""
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "cat.png")
    write_picture(tmp_path / "my cat.png")
    write_sound(tmp_path / "cat.wav")
    (tmp_path / "cat.bin").write_bytes((tmp_path / "cat.wav").read_bytes())
    return tmp_path


def described(line):
    return [part.text if part.type == "text" else (part.type, part.path.name) for part in chat.typed_parts(line)]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("hello", ["hello"]),
        ("what is this? @cat.png", ["what is this?", ("image", "cat.png")]),
        ("@cat.wav", [("speech", "cat.wav")]),
        ("a @cat.png b  'c' @cat.wav d", ["a", ("image", "cat.png"), "b  'c'", ("speech", "cat.wav"), "d"]),
        ("it's Bob's \"best\" cat @cat.png", ["it's Bob's \"best\" cat", ("image", "cat.png")]),
        ('@"my cat.png" @speech=cat.bin', [("image", "my cat.png"), ("speech", "cat.bin")]),
        ('@image="my cat.png"!', [("image", "my cat.png"), "!"]),
        ("me@cat.png at @ noon \\n", ["me@cat.png at @ noon \\n"]),
    ],
)
def test_attachments_stand_where_they_are_typed(files, line, parts):
    assert described(line) == parts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@no.png", "no.png: no such file"),
        ("@cat.bin", "cat.bin: its suffix does not tell a modality; write @MODALITY=cat.bin"),
        ("@cat", "cat: its suffix does not tell a modality"),
    ],
)
def test_bad_attachments_are_named(files, line, message):
    with pytest.raises(MediaError, match=message):
        chat.typed_parts(line)


@pytest.fixture
def talk(bundle, files, monkeypatch, capsys):
    """Type lines, doing what is callable among them, then end the input.

    Returns what was printed and the conversations that the model was asked with.
    """
    asked = []
    stream = Anyglot.stream

    def watched(self, messages, *arguments):
        asked.append([[part.type for part in message.parts] for message in messages])
        return stream(self, messages, *arguments)

    def run(*lines, overrides=("max_tokens=24",)):
        asked.clear()
        typed = iter(lines)

        def answer(*_):
            for line in typed:
                if not callable(line):
                    return line
                line()
            raise EOFError

        monkeypatch.setattr(builtins, "input", answer)
        monkeypatch.setattr(Anyglot, "stream", watched)
        chat.run(bundle, files / "out", seed=3, overrides=overrides)
        return capsys.readouterr().out, list(asked)

    return run


def test_a_conversation_remembers_until_it_is_told_to_forget(talk, files):
    _, asked = talk("hello", "/to text", "what is this? @cat.png", "", "/new", "again")
    assert [len(messages) for messages in asked] == [1, 3, 1]
    assert asked[0] == [["text"]]
    assert asked[1][2] == ["text", "image"]


def test_media_are_written_to_files_that_open(talk, files):
    printed, _ = talk("/to image", "a cat", "/to speech", "@cat.png", "/to", "and more", "/quit", "never")
    names = sorted(path.name for path in (files / "out").iterdir())
    assert names[:2] == ["00-0-image.png", "01-0-speech.wav"]
    with Image.open(files / "out" / "00-0-image.png") as picture:
        picture.load()
    assert soundfile.info(files / "out" / "01-0-speech.wav").samplerate == 800
    assert str(files / "out" / "00-0-image.png") in printed
    assert "writing image ..." in printed


def test_codes_that_stand_for_nothing_are_said_and_the_conversation_goes_on(talk, files, monkeypatch):
    def refuse(*_):
        raise MediaError("no such picture")

    monkeypatch.setattr(ImageTokenizer, "decode", refuse)
    printed, asked = talk("/to image", "a cat", "and another")
    assert printed.count("image  its codes stand for nothing") == 2
    assert [len(messages) for messages in asked] == [1, 3]
    assert not (files / "out").exists()


def test_an_attached_file_may_go_once_it_was_read(talk, files):
    printed, asked = talk("/to text", "@cat.png", (files / "cat.png").unlink, "what was it?")
    assert [len(messages) for messages in asked] == [1, 3]
    assert "no such file" not in printed


def test_mistakes_are_one_line_and_the_conversation_goes_on(talk, files):
    (files / "bad.png").write_bytes(b"[/bold] no picture")
    printed, asked = talk(
        "@bad.png", "@no.png", "@[/red].png", "@cat.bin", "@video=cat.bin", "/to video", "/what", "x" * 2000, "hello"
    )
    for message in (
        "bad.png",
        "no.png: no such file",
        "[/red].png: no such file",
        "cat.bin: its suffix does not tell a modality",
        "this model reads no 'video'",
        "this model writes no 'video'; it knows: text, image, speech",
        "no command /what; /help lists them",
        "leaves no room for an answer",
    ):
        assert printed.count(message) == 1, message
    assert asked[-1] == [["text"]]


def test_help_tells_how_to_attach(talk):
    printed, asked = talk("/help")
    assert "@FILE attaches a file" in printed
    assert not asked


def test_answers_are_printed_as_they_are(talk, monkeypatch):
    from anyglot.tokenizers.text import TextTokenizer

    monkeypatch.setattr(TextTokenizer, "to_bytes", lambda self, ids: "[b]:cat:é\x1b[2J".encode())
    printed, _ = talk("/to text", "hello")
    assert "[b]:cat:é␛[2J" in printed
    assert "\x1b[2J" not in printed  # no model clears the screen


def test_an_answer_that_is_cut_off_says_so(talk):
    printed, _ = talk("/to text", "hello", overrides=("max_tokens=1",))
    assert printed.count("cut off: max_tokens are written") == 1


def test_an_interrupt_stops_the_answer_alone(talk, monkeypatch):
    from anyglot.inference.decoder import Decoder

    steps = Decoder.steps

    def interrupted(self, requests):
        for count, step in enumerate(steps(self, requests)):
            if count == 5:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Decoder, "steps", interrupted)
    printed, asked = talk("/to text", "hello", "and now?")
    assert printed.count("stopped") == 2
    assert [len(messages) for messages in asked] == [1, 3]
    assert asked[1][1] == ["text"]  # what was written until then


@pytest.fixture(scope="module")
def model(bundle):
    return Anyglot.load(bundle)


@pytest.mark.parametrize("colours", [True, False])
def test_pictures_are_drawn_where_there_are_colours(model, tmp_path, colours):
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=colours, color_system="truecolor" if colours else None, width=80)
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2] = (255, 0, 0)
    for part in (Part("image", data=pixels), Part("speech", data=np.zeros(80, np.float32))):
        chat._show_medium(console, model, part, tmp_path, part.type)
    assert printed.getvalue().count("\u2580") == (12 if colours else 0)  # two rows of pixels are one of characters
    assert ("38;2;255;0;0;48;2;255;0;0" in printed.getvalue()) == colours
    assert {path.name for path in tmp_path.iterdir()} == {"image.png", "speech.wav"}


def test_files_of_other_modalities_are_known_by_their_endings(model, files):
    assert chat.suffixes_of(model) == {".png": "image", ".wav": "speech"}
    (files / "walk.npy").write_bytes(b"a motion")
    (part,) = chat.typed_parts("@walk.npy", {".npy": "motion"})
    assert (part.type, part.path.name) == ("motion", "walk.npy")
