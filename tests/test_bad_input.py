"""Bad input through the real command line: one line names the file and the mend, and nothing else is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageFile

from anyglot import cli
from anyglot.data.shards import TokenStore
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.tokenizers.networks.conv import ConvConfig
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer
from anyglot.tokenizers.text import TextTokenizer
from tests.data.fakes import save_png

RATE = 1000
GOOD = 6
MEL = {"type": "mel", "hop": 40, "stacked": 1, "window": 64, "mels": 8, "channels": 8, "blocks": 1}
ISTFT = {"type": "istft", "hop": 40, "window": 80, "delay": 40, "channels": 8, "blocks": 1}
FSQ = {"type": "fsq", "sizes": [4, 4]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Small real tokenizers, a corpus of whole files, its tokens, and a model that was trained on them for 4 steps."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    network = ConvConfig(channels=[8, 8, 8], blocks=1, decoder_blocks=1, groups=8, attention=False)
    ImageTokenizer(ImageConfig(network, FSQ, dim=4, max_side=64)).save_pretrained(folder / "image")
    sound = SpeechConfig(RATE, max_seconds=2.0, dim=8, encoder=MEL, decoder=ISTFT, quantizer=FSQ)
    SpeechTokenizer(sound).save_pretrained(folder / "speech")
    TextTokenizer.train(["pictures and sounds of numbers"] * 3, 280).save_pretrained(folder / "text")
    (folder / "media").mkdir()
    for number in range(GOOD):
        save_png(folder / "media" / f"{number}.png", number)
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 300).astype(np.float32)
        soundfile.write(folder / "media" / f"{number}.wav", noise, RATE)
    write_documents(folder, "good", [(f"{number}.png", f"{number}.wav") for number in range(GOOD)])
    write_tokenize(folder, "tokens", "good")
    assert run("tokenize", folder / "tokens.yaml")[0] == 0
    write_train(folder)
    code, _, err = run("train", folder / "train.yaml")
    assert code == 0, err
    return folder


def write_documents(folder, name, pairs):
    """A JSON-lines file with a picture document and a sound document for each pair of files."""
    parts = [(kind, path) for pair in pairs for kind, path in zip(("image", "speech"), pair, strict=True)]
    lines = [{"id": path, "parts": [{"type": kind, "path": f"media/{path}"}]} for kind, path in parts]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_tokenize(folder, out, source, **changes):
    """The config of a tokenize run; JSON is YAML."""
    tokenizers = {"image": str(folder / "image"), "speech": str(folder / "speech")}
    mapping = {"out": str(folder / out), "text": str(folder / "text"), "tokenizers": tokenizers, "workers": 1}
    mapping |= {"sources": {source: {"files": [str(folder / f"{source}.jsonl")]}}} | changes
    (folder / f"{out}.yaml").write_text(json.dumps(mapping))


def write_train(folder):
    mapping = {
        "stage": "pretrain",
        "out": str(folder / "lm"),
        "data": {"stores": {"good": {"path": str(folder / "tokens" / "good")}}, "length": 64, "rows": 2},
        "tokenizers": {name: str(folder / name) for name in ("text", "image", "speech")},
        "model": {"hidden": 16, "layers": 1, "heads": 2, "key_value_heads": 2, "max_length": 128},
        "steps": 4,
        "save_every": 2,
    }
    (folder / "train.yaml").write_text(json.dumps(mapping))


def run(*words, **environment):
    """`anyglot WORDS` in a process of its own: exit code, stdout, stderr."""
    command = [sys.executable, "-m", "anyglot", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def call(capsys, *words):
    """`anyglot WORDS` in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return (stopped.value.code, *capsys.readouterr())


def one_line(result, *pieces):
    """Hold that a result is exit code 2 and one line on stderr, with every one of `pieces` in it."""
    code, _, err = result
    assert code == 2, err
    assert err.startswith("anyglot: error: ")
    assert err.count("\n") == 1, err
    for piece in pieces:
        assert str(piece) in err
    return err


# ---------------------------------------------------------------------------------------------------------- bad media


def truncated_png(path):
    path.write_bytes(save_png(path, 1, 64, 64)[:-5000])


def empty_wav(path):
    path.write_bytes(b"")


def nan_wav(path):
    sound = np.zeros(300, np.float32)
    sound[7] = np.nan
    soundfile.write(path, sound, RATE, subtype="FLOAT")


def huge_png(path):
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 200_000


BAD = {  # file -> how it is made, what is said of it, how to mend it
    "truncated.png": (truncated_png, "damaged picture", "restore it"),
    "empty.wav": (empty_wav, "not a sound file that can be decoded", "remove it from the list"),
    "nan.wav": (nan_wav, "NaN or infinity in 1 of 300 samples", "export the sound again"),
    "huge.png": (huge_png, "more pixels than max_pixels", "resize it or raise the limit"),
}


@pytest.fixture(scope="module")
def bad(world):
    """The bad files, beside the good ones."""
    for name, (make, _, _) in BAD.items():
        make(world / "media" / name)
    return world / "media"


@pytest.fixture
def small_pictures_only(monkeypatch):
    """Decoding a large picture is an error of the test, also where Pillow would allow it."""
    load = ImageFile.ImageFile.load

    def guarded(self):
        assert max(self.size) < 1000, "a huge picture was decoded"
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", guarded)


def test_tokenize_reports_each_bad_file_and_keeps_all_others(world, bad, small_pictures_only, capsys):
    pairs = [("0.png", "empty.wav"), ("truncated.png", "1.wav"), ("huge.png", "nan.wav"), ("2.png", "2.wav")]
    write_documents(world, "mixed", pairs)
    write_tokenize(world, "mixed_tokens", "mixed")
    code, _, err = call(capsys, "tokenize", world / "mixed_tokens.yaml")
    assert code == 0
    assert "problems, each with its place and reason, are in" in " ".join(err.split())
    store = TokenStore(world / "mixed_tokens" / "mixed")
    assert [store.name(i) for i in range(len(store))] == ["0.png", "1.wav", "2.png", "2.wav"]
    lines = [json.loads(line) for line in (world / "mixed_tokens" / "errors.jsonl").read_text().splitlines()]
    media = {Path(line["where"]).name: line["reason"] for line in lines if line["kind"].startswith("unreadable")}
    assert media.keys() == BAD.keys()
    for name, (_, what, mend) in BAD.items():
        assert str(bad / name) in media[name]
        assert what in media[name]
        assert mend in media[name]


@pytest.mark.parametrize("name", BAD)
def test_generate_refuses_a_bad_prompt_in_one_line(name, world, bad, small_pictures_only, capsys):
    _, what, mend = BAD[name]
    flag = "--image" if name.endswith(".png") else "--speech"
    one_line(call(capsys, "generate", world / "lm", flag, bad / name, "--out", world / "out"), bad / name, what, mend)
    assert not (world / "out").exists()


@pytest.mark.parametrize("modality", ["image", "speech"])
def test_training_a_tokenizer_leaves_bad_files_out_and_says_so(modality, world, bad, small_pictures_only, caplog):
    write_documents(world, "mixed", [("0.png", "0.wav"), ("truncated.png", "empty.wav"), ("huge.png", "nan.wav")])
    small = {"height": 16, "width": 16, "perceptual": 0.0, "adversarial": 0.0, "discriminator_width": 8}
    heard = {"seconds": 0.2, "sample_rate": RATE, "mel_windows": [64], "mel_bands": [8]}
    mapping = json.loads((world / modality / "manifest.json").read_text())
    mapping = {"stage": "tokenizer", "modality": modality, "model": mapping["config"], "steps": 2, "batch_size": 8}
    mapping |= {"out": str(world / f"trained_{modality}"), "objective": small if modality == "image" else heard}
    mapping |= {"data": {"files": [str(world / "mixed.jsonl")]}, "samples": 1, "precision": "fp32"}
    (world / "tokenizer.yaml").write_text(json.dumps(mapping))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(world / "tokenizer.yaml")])
    assert stopped.value.code == 0
    assert (world / f"trained_{modality}" / "tokenizer" / "model.safetensors").is_file()
    for name in (name for name in BAD if name.endswith(".png") == (modality == "image")):
        assert sum(str(bad / name) in record.message for record in caplog.records) == 1, name


# ------------------------------------------------------------------------------------------------------- config typos


@pytest.mark.parametrize(
    ("words", "typo", "meant"),
    [
        (("train", "demo/lm", "engine.lerning_rate=1e-3"), "engine.lerning_rate", "engine.learning_rate"),
        (("train", "demo/image", "optimiser.lr=1e-3"), "optimiser", "optimizer"),
        (("train", "demo/text", "sise=1000"), "sise", "size"),
        (("tokenize", "demo/tokenize", "wokers=2"), "wokers", "workers"),
        (("eval", "demo/eval_lm", "name=3"), "name", "names"),
        (("fetch", "demo", "--out", "nowhere", "spokn=3"), "spokn", "spoken"),
        (("generate", "nowhere", "--text", "a", "temprature=0.5"), "temprature", "temperature"),
    ],
)
def test_a_mistyped_key_names_the_nearest(words, typo, meant, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(call(capsys, *words), f"unknown key {typo!r}", f"did you mean {meant!r}?")
    assert not list(tmp_path.iterdir())


def test_a_mistyped_key_in_a_file_names_the_file(world, capsys):
    mapping = json.loads((world / "train.yaml").read_text())
    mapping["model"]["hiden"] = mapping["model"].pop("hidden")
    (world / "typo.yaml").write_text(json.dumps(mapping))
    one_line(call(capsys, "train", world / "typo.yaml"), world / "typo.yaml", "'model.hiden'", "'model.hidden'")


def test_a_mistyped_config_name_names_the_nearest(capsys):
    one_line(call(capsys, "train", "demo/imgae"), "no config 'demo/imgae'", "did you mean 'demo/image'?")


def test_broken_yaml_names_the_file(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("stage: pretrain\n  out: [")
    one_line(call(capsys, "train", tmp_path / "broken.yaml"), tmp_path / "broken.yaml", "not valid YAML")


# -------------------------------------------------------------------------------------------- token shards


def test_a_shard_of_another_vocabulary_is_refused(world, capsys):
    shutil.copy(world / "good.jsonl", world / "pictures.jsonl")
    write_tokenize(world, "other", "pictures", streams={"speech": "level"})  # other ids for the same codes
    assert call(capsys, "tokenize", world / "other.yaml")[0] == 0
    shutil.copytree(world / "tokens", world / "mingled")
    stray = shutil.copy(world / "other" / "pictures" / "000000.arrow", world / "mingled" / "good" / "000001.arrow")
    mine, other = (
        json.loads((world / name / "manifest.json").read_text())["vocabulary"] for name in ("tokens", "other")
    )
    before = (world / "lm" / "model" / "model.safetensors").read_bytes()
    words = ("train", world / "train.yaml", f"data.stores.good.path={world / 'mingled' / 'good'}")
    one_line(run(*words, f"out={world / 'never'}"), stray, mine, other, "make it again")
    one_line(call(capsys, "inspect", world / "mingled" / "good", "--document", "0"), stray, mine, other)
    assert (world / "lm" / "model" / "model.safetensors").read_bytes() == before


def test_tokens_of_another_vocabulary_are_not_written_over(world, capsys):
    shutil.copytree(world / "tokens", world / "kept")
    shards = {path: path.read_bytes() for path in (world / "kept").rglob("*") if path.is_file()}
    write_tokenize(world, "kept", "good", tokenizers={"image": str(world / "image")})
    one_line(call(capsys, "tokenize", world / "kept.yaml"), world / "kept", "write to another `out`")
    assert {path: path.read_bytes() for path in (world / "kept").rglob("*") if path.is_file()} == shards


def test_a_damaged_shard_is_refused_and_made_again(world, capsys, caplog):
    shutil.copytree(world / "tokens", world / "torn")
    victim = world / "torn" / "good" / "000000.arrow"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    one_line(call(capsys, "inspect", world / "torn" / "good"), victim, "delete it and run the step that made it")
    write_tokenize(world, "torn", "good")
    assert call(capsys, "tokenize", world / "torn.yaml")[0] == 0
    assert str(victim) in caplog.text
    assert victim.read_bytes() == whole


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_a_corrupt_checkpoint_costs_only_itself(world):
    shutil.copytree(world / "lm", world / "hurt")
    (world / "hurt" / "done.json").unlink()
    before = (world / "hurt" / "model" / "model.safetensors").read_bytes()
    newest = world / "hurt" / "checkpoints" / "step-00000004"
    victim = next(newest.rglob("*optim_states.pt"))
    victim.write_bytes(victim.read_bytes()[:-100])
    words = ("train", world / "train.yaml", f"out={world / 'hurt'}")
    one_line(run(*words), victim, f"delete {newest} to go on from step-00000002")
    shutil.rmtree(newest)
    assert run(*words)[0] == 0
    assert (world / "hurt" / "model" / "model.safetensors").read_bytes() == before


def test_a_corrupt_state_of_a_tokenizer_run(world, capsys):
    out = world / "unfinished"
    out.mkdir()
    (out / "state.pt").write_bytes(b"not a checkpoint")
    mapping = json.loads((world / "image" / "manifest.json").read_text())
    mapping = {"stage": "tokenizer", "modality": "image", "model": mapping["config"], "out": str(out)}
    mapping |= {"data": {"files": [str(world / "good.jsonl")]}, "objective": {"perceptual": 0.0}}
    (world / "unfinished.yaml").write_text(json.dumps(mapping))
    one_line(call(capsys, "train", world / "unfinished.yaml"), out / "state.pt", "delete it to start again")


def hurt(victim, damage):
    """Damage a file; return what it held."""
    whole = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else bytes(255 - byte for byte in whole))
    return whole


def says_the_mend(line):
    return any(mend in line for mend in ("restore", "retrain", "check the path", "give a run's `model` folder"))


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "gone"])
@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "config.json",
        "vocabulary.json",
        "tokenizers/image/model.safetensors",
        "tokenizers/speech/manifest.json",
        "tokenizers/text/sentencepiece.model",
    ],
)
def test_a_damaged_model_directory(file, damage, world, tmp_path, capsys):
    shutil.copytree(world / "lm" / "model", tmp_path / "model")
    victim = tmp_path / "model" / file
    hurt(victim, damage)
    words = ("generate", tmp_path / "model", "--text", "a", "--out", tmp_path / "out", "max_tokens=4")
    assert says_the_mend(one_line(call(capsys, *words), victim.parent))
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "gone"])
@pytest.mark.parametrize(
    "file", ["image/model.safetensors", "image/manifest.json", "text/sentencepiece.model", "text/manifest.json"]
)
def test_a_corrupt_tokenizer_stops_tokenize_and_keeps_what_was_made(file, damage, world, tmp_path, capsys):
    for name in ("image", "speech", "text", "tokens", "media"):
        shutil.copytree(world / name, tmp_path / name)
    shutil.copy(world / "good.jsonl", tmp_path)
    (tmp_path / "tokens" / "good" / "000000.arrow").unlink()  # something to do
    (tmp_path / "tokens" / "kept.txt").write_text("mine")
    write_tokenize(tmp_path, "tokens", "good")
    victim = tmp_path / file
    whole = hurt(victim, damage)
    assert says_the_mend(one_line(call(capsys, "tokenize", tmp_path / "tokens.yaml"), victim.parent))
    victim.write_bytes(whole)
    assert call(capsys, "tokenize", tmp_path / "tokens.yaml")[0] == 0
    assert len(TokenStore(tmp_path / "tokens" / "good")) == 2 * GOOD
    assert (tmp_path / "tokens" / "kept.txt").exists()
