"""Benchmarks that ask a model, on a small one with random weights: what is written, counted and repeated."""

import json

import pytest
import soundfile

from anyglot.data.documents import Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, MediaError
from anyglot.eval.benchmarks import coco_captions, cycle, geneval, librispeech
from anyglot.eval.benchmarks.asking import AskedModel, ask
from anyglot.eval.records import Records
from anyglot.tokenizers.image import ImageTokenizer
from tests.inference.bundles import WORDS, make_bundle, write_picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def model(bundle):
    return {"checkpoint": str(bundle), "max_tokens": 40, "batch": 3}


def test_answers_do_not_depend_on_what_is_written_beside_them(bundle, tmp_path):
    asked = {word: [Part("text", text=word)] for word in WORDS[:4]}
    answers = []
    for batch in (1, 3):
        config = AskedModel(checkpoint=str(bundle), batch=batch, max_tokens=20, seed=5)
        with JobProgress(tmp_path, {"words": 4}) as progress:
            found = dict(ask(config.load(), asked, "text", config, progress, "words"))
        answers.append({name: found[name].text for name in asked})
    assert answers[0] == answers[1]
    assert len(set(answers[0].values())) > 1


def test_geneval_s_folder(model, tmp_path):
    prompts = [{"tag": "colors", "prompt": word} for word in WORDS[:2]]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    config = {"kind": "geneval", "out": str(tmp_path / "out"), "prompts": str(tmp_path / "prompts.jsonl")}
    config |= {"images": str(tmp_path / "images"), "per_prompt": 2, "model": model}
    assert geneval.run(config, "here") == {"geneval.written": 1.0}
    files = sorted(str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.*"))
    assert files.pop() == "anyglot.json"
    own = ["metadata.jsonl", "samples/00000.png", "samples/00001.png"]
    assert files == [f"{folder}/{name}" for folder in ("00000", "00001") for name in own]
    assert json.loads((tmp_path / "images" / "00001" / "metadata.jsonl").read_text()) == prompts[1]
    with pytest.raises(AnyglotError, match="folder of its own"):
        geneval.run(config, "here")
    # the score of these pictures is kept with the model that wrote them
    seen = {"filename": "00000/samples/00000.png", "tag": "colors", "correct": True}
    (tmp_path / "results.jsonl").write_text(json.dumps(seen))
    written = Records.load(tmp_path / "out")
    assert geneval.run(config | {"model": {}, "results": str(tmp_path / "results.jsonl")}, "")["geneval.score"] == 1.0
    scored = Records.load(tmp_path / "out")
    assert scored.settings["model"] == written.settings["model"]
    assert scored.fingerprints.items() > written.fingerprints.items()


def test_pictures_are_described_and_those_that_cannot_be_read_cost_no_other(model, tmp_path):
    pictures = [{"id": number, "file_name": f"{number}.png"} for number in range(4)]
    captions = [{"image_id": number, "caption": WORDS[number]} for number in range(4)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": pictures, "annotations": captions}))
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", seed=number)
    config = {"kind": "coco_captions", "out": str(tmp_path / "out"), "annotations": str(tmp_path / "captions.json")}
    found = coco_captions.run(config | {"images": str(tmp_path), "model": model, "instruction": "what is this?"}, "")
    score = Records.load(tmp_path / "out").scores["coco.cider_d_simple_words"]
    assert score.ids == ["0", "1", "2"]
    assert "3.png" in score.failed["3"]
    # what was written can be scored again, to the same figures
    again = {"results": str(tmp_path / "out" / "captions.json"), "out": str(tmp_path / "again")}
    assert coco_captions.run(config | again, "") == found


def speech_folder(tmp_path):
    folder = tmp_path / "19" / "198"
    folder.mkdir(parents=True)
    (folder / "19-198.trans.txt").write_text("19-198-0000 BLACK CAT\n19-198-0001 THE SUN\n19-198-0002 A RED KITE\n")
    for number in range(2):
        soundfile.write(folder / f"19-198-{number:04d}.flac", [0.01 * number] * 400, 800)
    return {"kind": "librispeech", "out": str(tmp_path / "out"), "data": str(tmp_path)}


def test_word_errors_by_hand(tmp_path):
    pytest.importorskip("jiwer", reason="word errors need the extra `eval`")
    config = speech_folder(tmp_path)
    path = tmp_path / "heard.txt"
    path.write_text("19-198-0000 black hat\n19-198-0001\n")
    # one substitution in two words, two deletions in two; the third sound is failed, not right or wrong
    assert librispeech.run(config | {"transcripts": str(path)}, "") == {"librispeech.wer": 3 / 4}
    assert Records.load(tmp_path / "out").scores["librispeech.wer"].failed == {"19-198-0002": "no transcript"}
    path.write_text("19-198-0009 black hat\n")
    with pytest.raises(AnyglotError, match="19-198-0009 is no sound"):
        librispeech.run(config | {"transcripts": str(path)}, "")


def test_sounds_are_written_down(model, tmp_path):
    pytest.importorskip("jiwer", reason="word errors need the extra `eval`")
    config = speech_folder(tmp_path)
    found = librispeech.run(config | {"model": model}, "")
    score = Records.load(tmp_path / "out").scores["librispeech.wer"]
    assert score.ids == ["19-198-0000", "19-198-0001"]
    assert score.denominators == [2, 2]
    assert "19-198-0002.flac" in score.failed["19-198-0002"]
    again = {"transcripts": str(tmp_path / "out" / "transcripts.txt"), "out": str(tmp_path / "again")}
    assert librispeech.run(config | again, "") == found


def test_texts_go_round(model, tmp_path):
    pytest.importorskip("jiwer", reason="word errors need the extra `eval`")
    lines = [{"id": f"d{n}", "parts": [{"type": "text", "text": word}]} for n, word in enumerate(WORDS[:3])]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    config = {"kind": "cycle", "out": str(tmp_path / "out"), "documents": [str(tmp_path / "d.jsonl")], "split": ""}
    found = cycle.run(config | {"through": ["image", "speech"], "model": model}, "")
    names = ("exact", "wer", "exact_to_another", "wer_to_another")
    assert found.keys() == {f"cycle.text_{way}_text.{name}" for way in ("image", "speech") for name in names}
    texts = json.loads((tmp_path / "out" / "texts.json").read_text())
    assert list(texts["wanted"].values()) == WORDS[:3]
    assert texts["told"]["image"].keys() == texts["wanted"].keys()
    # the seed repeats it
    assert cycle.run(config | {"through": ["image", "speech"], "model": model}, "") == found


def test_texts_that_come_back_are_compared_by_hand():
    pytest.importorskip("jiwer", reason="word errors need the extra `eval`")
    wanted = {"a": "black cat", "b": "the sun", "c": "a red kite"}
    found = cycle.compare(wanted, {"a": "black cat", "b": "the black cat"}, {"c": "no image"})
    assert found["exact"].value == 0.5
    assert found["wer"].value == pytest.approx(2 / 4)  # "sun" replaced, "cat" put in
    assert found["exact_to_another"].value == 0.0
    assert all(one.failed == {"c": "no image"} for one in found.values())


def test_a_single_text_has_no_other_to_be_compared_with():
    pytest.importorskip("jiwer", reason="word errors need the extra `eval`")
    for told in ({"a": "black cat"}, {}):
        found = cycle.compare({"a": "black cat", "b": "the sun"}, told, {"b": "no image"})
        assert found["exact"].value == (1.0 if told else None)
        assert (found["exact_to_another"].value, found["wer_to_another"].value) == (None, None)


def test_a_medium_that_cannot_be_decoded_is_lost_not_wrong(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageTokenizer, "decode", lambda self, codes: (_ for _ in ()).throw(MediaError("broken")))
    config = AskedModel(**model)
    with JobProgress(tmp_path, {"text to image": 1, "back from image": 1}) as progress:
        told, lost = cycle.there_and_back(config.load(), {"a": "the sun"}, "image", config, progress)
    assert (told, list(lost)) == ({}, ["a"])
