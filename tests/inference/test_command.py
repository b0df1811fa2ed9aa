"""`anyglot generate`: from the command line to files that other programs read."""

import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot.cli import main
from anyglot.errors import ConfigError, MediaError
from anyglot.inference.command import GenerateConfig, load_config, load_model, make_part
from anyglot.inference.terminal import printable
from tests.inference.bundles import make_bundle, write_picture, write_sound


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("run") / "model")


def run(*words):
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def refused(capsys, *words):
    """The one line that a refused command prints."""
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize("folder", ["model", "run"])
def test_a_picture_from_words(bundle, tmp_path, capsys, folder):
    checkpoint = bundle if folder == "model" else bundle.parent
    assert run("generate", checkpoint, "--text", "black cat", "--to", "image", "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "00-image.png"
    assert str(path) in capsys.readouterr().out  # on one line, however narrow the terminal
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        assert max(picture.size) <= 16


def test_speech_from_words_and_a_picture_in_order(bundle, tmp_path):
    picture = write_picture(tmp_path / "cat.png")
    words = ["--text", "what", "--image", picture, "--part", "text=is this?", "--to", "speech", "--out", tmp_path / "o"]
    assert run("generate", bundle, *words, "max_tokens=40") == 0
    samples, rate = soundfile.read(tmp_path / "o" / "00-speech.wav")
    assert rate == 800
    assert 0 < len(samples) <= 1600
    assert np.isfinite(samples).all()


def test_text_from_speech_is_written_and_printed_as_it_is(bundle, tmp_path, capsys):
    sound = write_sound(tmp_path / "cat.wav")
    assert (
        run(
            "generate", bundle, "--speech", sound, "--to", "text", "--out", tmp_path / "o", "max_tokens=60", "--seed", 1
        )
        == 0
    )
    written = (tmp_path / "o" / "00-text.txt").read_bytes().decode()
    assert written
    assert printable(written) in capsys.readouterr().out


def test_model_text_is_no_markup(bundle, tmp_path, capsys, monkeypatch):
    from anyglot.data.documents import Part
    from anyglot.inference.anyglot import Anyglot, Reply

    said = "[bold]a[/] :cat: [/nothing] " + "x" * 300
    monkeypatch.setattr(Anyglot, "write", lambda *_: [Reply([], [], [Part("text", text=said)])])
    out = tmp_path / "[red]"
    assert run("generate", bundle, "--text", "a", "--out", out) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert str(out / "00-text.txt") in printed


def test_the_seed_decides(bundle, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("generate", bundle, "--text", "a", "--to", "image", "--out", tmp_path / name, "--seed", seed) == 0
    a, b, c = ((tmp_path / name / "00-image.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_settings_reach_the_decoder(bundle):
    config = load_config(["temperature=0.5", "top_k=3", "sampling.image.top_k=7", "sampling.text.temperature=0"])
    model = load_model(bundle, config)
    assert (model.decoder.default.temperature, model.decoder.default.top_k) == (0.5, 3)
    assert (model.decoder.sampling["image"].temperature, model.decoder.sampling["image"].top_k) == (1.0, 7)
    assert model.decoder.sampling["text"].temperature == 0
    assert load_config([]) == GenerateConfig()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temprature=1", "unknown key 'temprature'; did you mean 'temperature'?"),
        ("temperature=-1", "temperature -1.0"),
        ("top_p=0", "top_p 0.0 in (0, 1]"),
        ("sampling.image.topk=3", "topk"),
        ("sampling.image.top_p=2", "top_p 2.0 in (0, 1]"),
        ("max_tokens=many", "max_tokens"),
        ("max_tokens=0", "max_tokens is 0"),
    ],
)
def test_bad_settings_are_refused(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config([override])


def test_settings_of_a_modality_that_is_not_there_are_refused(bundle, capsys):
    line = refused(capsys, "generate", bundle, "--text", "a", "sampling.video.top_k=3")
    assert "sampling.video: this model has no such modality; it has: text, image, speech" in line


def test_a_file_that_is_not_there_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    line = refused(capsys, "generate", tmp_path / "no model", "--image", tmp_path / "no.png")
    assert "no.png: no such file; give the path of a file of modality 'image'" in line
    with pytest.raises(MediaError, match="no such file"):
        make_part("speech", str(tmp_path))
    with pytest.raises(MediaError, match="xxx: no such file"):
        make_part("speech", "x" * 5000)
    assert make_part("item", "a film's title, " * 500).data == b"a film's title, " * 500


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_bad_file_is_one_line(bundle, tmp_path, capsys, content):
    path = write_picture(tmp_path / "bad.png")
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    assert str(path) in refused(capsys, "generate", bundle, "--image", path, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_folder_without_model_is_one_line(tmp_path, capsys):
    assert f"{tmp_path}: no model here" in refused(capsys, "generate", tmp_path, "--text", "a")


def test_an_unknown_target_is_one_line(bundle, capsys):
    line = refused(capsys, "generate", bundle, "--text", "a", "--to", "video")
    assert "writes no 'video'; it knows: text, image, speech" in line
