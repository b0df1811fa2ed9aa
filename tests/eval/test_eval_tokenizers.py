"""Measuring tokenizers by config: which media reach which modality's scores, and what is written beside them."""

import inspect
import json
from importlib import import_module

import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot.cli import main
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.eval import image, speech
from anyglot.eval.tokenizers import run
from tests.inference.bundles import make_tokenizers, write_picture, write_sound

HELDOUT = (1, 4)  # numbers of the documents that are held out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for tokenizer in make_tokenizers():
        tokenizer.save_pretrained(folder / tokenizer.modality)
    lines = []
    for number in range(6):
        write_picture(folder / f"{number}.png", 5, 4 + number, seed=number)
        write_sound(folder / f"{number}.wav", 100 + number, seed=number)
        parts = [{"type": "image", "path": f"{number}.png"}, {"type": "speech", "path": f"{number}.wav"}]
        if number != 4:
            parts += [{"type": "text", "text": f"number {number}"}]
        split = "heldout" if number in HELDOUT else "train"
        lines.append({"id": f"id{number}", "split": split, "parts": parts})
    (folder / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def config(folder, tmp_path):
    return {
        "kind": "tokenizers",
        "out": str(tmp_path / "out"),
        "tokenizers": {name: str(folder / name) for name in ("image", "speech")},
        "files": {name: [str(folder / "documents.jsonl")] for name in ("image", "speech")},
    }


@pytest.fixture
def scored(monkeypatch):
    """What the scores of each modality were asked with."""
    asked = {}

    def scores(name, module):
        signature = inspect.signature(module.evaluate)

        def evaluate(*arguments):
            bound = signature.bind(*arguments)  # the uniform contract: tokenizer, media, texts, media for usage
            asked[name] = list(bound.arguments.values())
            return {"items": float(len(arguments[1])), "score": 1.5}

        monkeypatch.setattr(module, "evaluate", evaluate)

    scores("image", image)
    scores("speech", speech)
    return asked


@pytest.mark.parametrize("modality", ["image", "speech"])
def test_every_modality_s_scores_take_the_same_arguments(modality):
    parameters = list(inspect.signature(import_module(f"anyglot.eval.{modality}").evaluate).parameters)
    assert parameters[2:4] == ["texts", "usage_of"]


def test_held_out_media_are_measured_and_the_others_count_usage(config, scored, tmp_path):
    figures = run(config, "test")
    assert figures == {"image.items": 2.0, "image.score": 1.5, "speech.items": 2.0, "speech.score": 1.5}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    tokenizer, media, texts, usage = scored["image"]
    assert tokenizer.modality == "image"
    assert [picture.shape for picture in media] == [(5, 5, 3), (5, 8, 3)]
    assert texts == ["number 1", "id4"]  # what has no text is called by its id
    assert [picture.shape[1] for picture in usage] == [4, 6, 7, 9]
    assert [len(sound) for sound in scored["speech"][1]] == [101, 104]
    assert [len(sound) for sound in scored["speech"][3]] == [100, 102, 103, 105]


def test_limits_hold(config, scored):
    run({**config, "split": "train", "items": 3, "usage_items": 1}, "test")
    assert [picture.shape[1] for picture in scored["image"][1]] == [4, 6, 7]
    assert [picture.shape[1] for picture in scored["image"][3]] == [5]


def test_pairs_are_written_as_files(config, scored, folder, tmp_path):
    run({**config, "keep": 1}, "test")
    out = tmp_path / "out"
    samples = json.loads((out / "samples.json").read_text())
    (picture,), (sound,) = samples["image"], samples["speech"]
    assert picture["label"] == "number 1"
    assert np.array_equal(np.array(Image.open(out / picture["original"])), np.array(Image.open(folder / "1.png")))
    assert np.array(Image.open(out / picture["decoded"])).shape == (5, 5, 3)
    lengths = [len(soundfile.read(out / sound[key])[0]) for key in ("original", "decoded")]
    assert lengths == [101, 101]


def test_the_command_prints_the_figures(config, scored, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "eval.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(path), "items=1"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "image.score" in printed
    assert "1.5" in printed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"split": "test"}, AnyglotError, "no image in split 'test' of .*documents.jsonl"),
        ({"files": {"image": ["x.jsonl"]}}, ConfigError, "files.speech is not set"),
        ({"item": 3}, ConfigError, "unknown key 'item'; did you mean 'items'"),
    ],
)
def test_mistakes_are_named(config, scored, change, error, message):
    with pytest.raises(error, match=message):
        run({**config, **change}, "test")


def test_a_tokenizer_of_another_modality_is_refused(config, scored, folder):
    with pytest.raises(ConfigError, match="tokenizers.image: .*speech holds a tokenizer of speech"):
        run({**config, "tokenizers": {"image": str(folder / "speech")}}, "test")


def test_a_bad_file_is_named(config, scored, folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    line = {"id": "bad", "split": "heldout", "parts": [{"type": "image", "path": "bad.png"}]}
    (tmp_path / "bad.jsonl").write_text(json.dumps(line))
    files = {"image": [str(tmp_path / "bad.jsonl")], "speech": []}
    with pytest.raises(MediaError, match="bad.png"):
        run({**config, "files": files}, "test")


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "eval.yaml"
    path.write_text("kind: tokenisers\n")
    with pytest.raises(SystemExit):
        main(["eval", str(path)])
    assert "key 'kind' is 'tokenisers', must be one of: tokenizers, language_model" in capsys.readouterr().err
