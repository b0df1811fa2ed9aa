"""The page of an evaluation's folder: figures with intervals, best and worst cases, failures, settings."""

import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the report needs the extra 'eval': pip install 'anyglot[eval]'")
pytest.importorskip("matplotlib", reason="the report needs the extra 'eval': pip install 'anyglot[eval]'")

import soundfile
from PIL import Image

from anyglot.cli import main
from anyglot.errors import AnyglotError
from anyglot.eval import command, folder_report
from anyglot.eval.benchmarks import coco_captions, geneval, librispeech
from anyglot.eval.directions import (
    Evaluation,
    baselines,
    comparisons_of,
    directions_of,
    figures_by_direction,
    matrix_of,
    sections_of,
    title_of,
)
from anyglot.eval.records import Records
from anyglot.eval.scores import Score
from tests.eval.test_report import Page

NAMES = [f"name {place}" for place in range(12)]
RIGHT = [float(place >= 6) for place in range(12)]
HOSTILE = "<script>alert(1)</script>"


def records():
    """Of a language model: two directions and a control, one figure of fewer items, some failures."""
    found = Records(
        {"kind": "language_model", "checkpoint": "runs/lm", "seed": 7, "out": HOSTILE}, {"checkpoint": "abc"}
    )
    errors = Score.mean(NAMES[:11], [100.0 + place for place in range(11)], scale="psnr")  # the last has another size
    found.scores = {
        "lm.text_to_image.nearest_is_right_seen": Score.mean(NAMES, RIGHT),
        "lm.text_to_image.psnr_seen": errors,
        "lm.text_to_image.nearest_is_right_untrained": Score.mean(NAMES, [0.0] * 12),
        "lm.image_to_speech.wer_seen": Score(["a", "b"], [3, 1], [2, 2], failed={"c": f"too short {HOSTILE}"}),
    }
    found.values = {"lm.text_to_image.span_validity": 0.75, "lm.names_seen": 12}
    return found


def samples(folder, places):
    (folder / "media").mkdir(parents=True, exist_ok=True)
    rows = []
    for place in places:
        path = f"media/{place}.png"
        Image.fromarray(np.full((8, 8, 3), place * 20, np.uint8)).save(folder / path)
        made = {"type": "image", "path": path} if place else None  # nothing came of the first
        row = {"id": NAMES[place], "nth": 0, "prompt": {"type": "text", "text": f"{NAMES[place]} {HOSTILE}"}}
        rows.append(row | {"answer": made, "wanted": {"type": "image", "path": path}, "note": "", "right": place >= 6})
    (folder / "samples.json").write_text(json.dumps({"text_to_image.seen": rows}))


@pytest.fixture
def folder(tmp_path):
    records().save(tmp_path / "lm")
    samples(tmp_path / "lm", [0, 1, 3, 4, 5, 6, 7, 8, 10])
    return tmp_path / "lm"


def page_of(folder):
    return folder_report.write(folder).read_text("utf-8")


def words_of(folder):
    return " ".join(Page(page_of(folder).replace("<", " <")).text.split())


def test_the_page_is_whole_and_loads_nothing(folder):
    text = page_of(folder)
    page = Page(text)
    assert page.open == []
    links = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert len(links) > 15
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "<script" not in text
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert page_of(folder) == text


def test_figures_have_intervals_items_failures_and_baselines(folder):
    words = words_of(folder)
    low, high = Score.mean(NAMES, RIGHT).interval()
    figure = f"nearest_is_right lm.text_to_image.nearest_is_right_seen 0.5 {low:.4g} to {high:.4g}, n = 12 untrained: 0"
    assert figure in words
    assert "span_validity lm.text_to_image.span_validity 0.75" in words
    assert "wer lm.image_to_speech.wer_seen 1 0.5 to 1.5, n = 2 , 1 failed" in words
    assert "names_seen lm.names_seen 12" in words
    assert f"1 could not be measured too short {HOSTILE}: c" in words
    assert "6 figures; 1 items could not be measured." in words
    assert "checkpoint abc" in words
    assert "seed 7" in words
    assert "kind: language_model" in words  # all settings, as YAML


def test_best_and_worst_cases_stand_first_with_their_media(folder):
    drawn = directions_of(Evaluation.read(folder))[0]
    assert (drawn.title, drawn.order) == ("text → image, seen", "nearest_is_right, then psnr")
    assert [sample.label for sample in drawn.best] == ["name 6", "name 7", "name 8"]  # less and less like their own
    assert [sample.label for sample in drawn.worst] == ["name 5", "name 4", "name 3"]
    assert [sample.label for sample in drawn.samples] == ["name 0", "name 1", "name 10"]
    assert drawn.best[0].answer[0].path == "media/6.png"
    assert drawn.best[0].figures == {"nearest_is_right": 1.0, "psnr": pytest.approx(10 * np.log10(255**2 / 106))}
    assert not drawn.worst[0].right
    words = words_of(folder)
    assert "Best, by nearest_is_right, then psnr prompt name 6" in words
    assert "nothing" in words.split("3 further")[1]


def test_cases_without_contents_are_named(folder):
    kept = records()
    kept.scores["lm.image_to_speech.wer_seen"] = Score(["a", "b", "c"], [3, 1, 2], [2, 2, 2])
    kept.save(folder)
    spoken = directions_of(Evaluation.read(folder))[1]
    assert [(case.label, case.answer, case.figures) for case in spoken.best] == [("b", [], {"wer": 0.5})]
    assert [(case.label, case.figures) for case in spoken.worst] == [("a", {"wer": 1.5})]
    assert spoken.order == "wer (low)"


def test_names_of_right_and_wrong_ones_alone_are_not_shown(tmp_path):
    found = Records({"kind": "conversation"}, {})
    found.scores = {
        f"conversation.right_turn_{turn}": Score.mean([f"{name}/{turn}" for name in NAMES], RIGHT) for turn in (1, 2)
    }
    found.save(tmp_path)
    one = Evaluation.read(tmp_path)
    assert directions_of(one) == []
    (section,) = sections_of(one)
    assert (section.title, [figure.label for figure in section.figures]) == (
        "conversation", ["right_turn_1", "right_turn_2"],
    )  # fmt: skip
    assert "n = 12" in words_of(tmp_path)


def test_an_item_that_is_worst_but_was_not_kept_is_named_all_the_same(folder):
    samples(folder, [6, 7])  # as older evaluations kept them: the first
    drawn = directions_of(Evaluation.read(folder))[0]
    assert [(sample.label, bool(sample.answer)) for sample in drawn.best] == [
        ("name 6", True), ("name 7", True), ("name 8", False),
    ]  # fmt: skip


def test_an_evaluation_without_records_shows_what_it_has(folder):
    (folder / "records.json").unlink()
    drawn, *more = directions_of(Evaluation.read(folder))
    assert more == []
    assert [figure.label for figure in drawn.figures] == ["span_validity", "nearest_is_right", "psnr"]
    assert len(drawn.samples) == 9
    assert drawn.best == []
    words = words_of(folder)
    assert "Where records.json is missing, no intervals" in words
    assert "lm.image_to_speech.wer_seen 1" in words


def test_media_that_are_gone_cost_no_page(folder):
    (folder / "media" / "6.png").unlink()
    assert "(no media/6.png)" in words_of(folder)


def test_a_folder_of_evaluations_is_one_page(folder):
    other = Records({"kind": "language_model", "seed": 1}, {})
    other.scores = {"lm.image_to_text.exact_heldout": Score.mean(["x", "y", "z"], [0, 0.5, 1])}
    other.save(folder.parent / "understanding")
    pairs = {"image": [{"label": "a", "original": "media/1.png", "decoded": "gone.png"}]}
    (folder.parent / "tokenizers").mkdir()
    (folder.parent / "tokenizers" / "metrics.json").write_text('{"image.psnr_heldout": 25.5}')
    (folder.parent / "tokenizers" / "samples.json").write_text(json.dumps(pairs))
    words = words_of(folder.parent)
    assert "understanding.image → text, held out" in words
    assert "exact understanding.lm.image_to_text.exact_heldout 0.5" in words
    assert "psnr_heldout tokenizers.image.psnr_heldout 25.5" in words
    assert "(no gone.png)" in words
    assert "lm.lm.text_to_image.nearest_is_right_seen" in words
    assert Page(page_of(folder.parent)).open == []
    matrix = matrix_of(folder_report.read_all(folder.parent)[0])
    assert matrix.cells["image"]["text"].heldout == "understanding.lm.image_to_text.exact_heldout"
    assert matrix.cells["text"]["image"].validity == "lm.lm.text_to_image.span_validity"
    assert not matrix.cells["text"]["text"].trained
    assert matrix.targets == {"image": "nearest is right", "speech": "wer", "text": "exact"}


def test_groups_are_apart_without_records_too():
    metrics = dict.fromkeys(
        ["lm.text_to_image.psnr_heldout", "lm.text_to_image.psnr_seen", "lm.text_to_image.spans"], 1
    )
    one = Evaluation(".", ".", "", metrics, None, {"text_to_image.seen": [], "text_to_image.heldout": []})
    assert figures_by_direction(one) == {
        "lm.text_to_image.seen": ["lm.text_to_image.psnr_seen", "lm.text_to_image.spans"],
        "lm.text_to_image.heldout": ["lm.text_to_image.psnr_heldout"],
        "": [],
    }


def test_reconstructions_stand_in_order_of_how_good_they_are(folder):
    found = Records({"kind": "tokenizers"}, {})
    found.scores = {
        "image.psnr_heldout": Score.mean(["a", "b", "c"], [9.0, 4.0, 25.0], scale="psnr"),
        "image.ssim_heldout": Score.mean(["a", "b", "c"], [0.5, 0.9, 0.1]),
    }
    found.save(folder)
    rows = [
        {"id": name, "nth": 0, "label": name, "original": "media/3.png", "decoded": "media/4.png"} for name in "cab"
    ]
    (folder / "samples.json").write_text(json.dumps({"image": rows}))
    (pictures,) = comparisons_of(Evaluation.read(folder))
    assert [pair.label for pair in pictures.pairs] == ["b", "a", "c"]
    assert pictures.pairs[0].note == "1 of 3: psnr 42.11, ssim 0.9"
    assert "3 of 3: psnr 34.15, ssim 0.1" in words_of(folder)


def test_a_suite_s_page_has_its_order_and_says_what_failed(folder):
    shutil.copytree(folder, folder.parent / "bits")
    states = [("lm", ""), ("text", f"no data {HOSTILE}"), ("bits", "")]
    listed = [{"name": name, "kind": "language_model", "failed": why} for name, why in states]
    (folder.parent / "suite.json").write_text(json.dumps({"evaluations": listed}))
    evaluations, failed = folder_report.read_all(folder.parent)
    assert [one.prefix for one in evaluations] == ["lm.", "bits."]
    assert list(failed) == ["text"]
    assert f"text failed: no data {HOSTILE}" in words_of(folder.parent)


def test_baselines_stand_beside_what_they_are_of():
    metrics = {
        "cycle.wer": 1,
        "cycle.wer_to_another": 2,
        "lm.bits_heldout": 3,
        "lm.bits_heldout_unigram": 4,
        "x.a_untrained": 5,
    }
    assert baselines(metrics) == {
        "cycle.wer_to_another": ("cycle.wer", "to another"),
        "lm.bits_heldout_unigram": ("lm.bits_heldout", "unigram"),
    }
    alone = Evaluation(".", ".", "", metrics, None, {})
    assert figures_by_direction(alone) == {"": ["cycle.wer", "lm.bits_heldout", "x.a_untrained"]}
    assert title_of("lm.text_to_image.heldout") == "text → image, held out"
    assert title_of("geneval") == "geneval"


def test_every_figure_is_shown_once(folder):
    one = Evaluation.read(folder)
    names = [name for names in figures_by_direction(one).values() for name in names]
    assert sorted([*names, *baselines(one.metrics)]) == sorted(one.metrics)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "lm: no metrics.json; give the `out` folder"),
        ("metrics.json", "{", r"metrics\.json: not valid JSON"),
        ("records.json", "{}", r"records\.json: not records of format"),
        ("samples.json", "[", r"samples\.json: not valid JSON"),
    ],
)
def test_what_is_wrong_is_named(folder, file, content, message):
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(AnyglotError, match=message):
        folder_report.write(folder)


@pytest.fixture
def scored(tmp_path):
    """A config that scores two pictures by what a detector said of them."""
    prompts = [{"tag": "colors", "prompt": "a red cup"}, {"tag": "counting", "prompt": "two cups"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    said = [
        {"filename": f"{n:05d}/samples/00000.png", "tag": one["tag"], "correct": n == 0}
        for n, one in enumerate(prompts)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    config = {"kind": "geneval", "out": str(tmp_path / "out"), "images": str(tmp_path / "images"), "per_prompt": 1}
    return config | {name: str(tmp_path / f"{name}.jsonl") for name in ("prompts", "results")}


def test_pictures_that_a_detector_judged_are_shown_right_ones_first(scored, tmp_path):
    path = tmp_path / "images" / "00000" / "samples" / "00000.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(path)
    geneval.run(scored, "here")
    (judged, *_) = directions_of(Evaluation.read(tmp_path / "out"))
    ((best,), (worst,)) = judged.best, judged.worst
    assert (best.prompt[0].text, best.answer[0].path) == ("a red cup", str(path))
    assert (worst.prompt[0].text, worst.answer[0].text[:4]) == ("two cups", "(no ")  # its file is gone


def test_captions_are_shown_beside_those_of_people(tmp_path):
    pictures = [{"id": number, "file_name": f"{number}.png"} for number in range(2)]
    told = [("a cat on a mat", 0), ("some cat on a mat", 0), ("a dog in the snow", 1), ("one dog in the snow", 1)]
    captions = [{"image_id": number, "caption": words} for words, number in told]
    (tmp_path / "captions.json").write_text(json.dumps({"images": pictures, "annotations": captions}))
    written = [{"image_id": 0, "caption": "a cat on a mat"}, {"image_id": 1, "caption": "a house"}]
    (tmp_path / "results.json").write_text(json.dumps(written))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    config = {"kind": "coco_captions", "out": str(tmp_path / "out"), "annotations": str(tmp_path / "captions.json")}
    coco_captions.run(config | {"results": str(tmp_path / "results.json"), "images": str(tmp_path)}, "here")
    (described,) = directions_of(Evaluation.read(tmp_path / "out"))
    (best,), (worst,) = described.best, described.worst
    assert best.prompt[0].path == str(tmp_path / "0.png")
    assert best.answer[0].text == "a cat on a mat"
    assert worst.wanted[0].text == "a dog in the snow\none dog in the snow"
    assert "bleu_4_simple_words" in {figure.label for figure in described.figures}


def test_sounds_play_beside_their_transcripts(tmp_path):
    folder = tmp_path / "data" / "1" / "2"
    folder.mkdir(parents=True)
    for number in range(2):
        soundfile.write(folder / f"1-2-{number}.flac", np.sin(np.arange(1600) * 0.2), 16000)
    (folder / "1-2.trans.txt").write_text("1-2-0 A HOUSE\n1-2-1 A CAT\n")
    (tmp_path / "heard.txt").write_text("1-2-0 A HORSE\n1-2-1 A CAT\n")
    config = {"kind": "librispeech", "out": str(tmp_path / "out"), "data": str(tmp_path / "data")}
    librispeech.run(config | {"transcripts": str(tmp_path / "heard.txt")}, "here")
    (heard,) = directions_of(Evaluation.read(tmp_path / "out"))
    assert [one.answer[0].text for one in (*heard.best, *heard.worst)] == ["A CAT", "A HORSE"]
    page = Page(page_of(tmp_path / "out"))
    players = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    assert [player[:23] for player in players] == ["data:audio/flac;base64,"] * 2


def test_an_evaluation_ends_with_its_page(scored, tmp_path, capsys):
    command.run(scored, "here")
    assert f"report: {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out
    before = (tmp_path / "out" / "report.html").read_bytes()
    (tmp_path / "out" / "report.html").unlink()
    with pytest.raises(SystemExit, match="0"):
        main(["eval", "--report", str(tmp_path / "out")])
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    assert re.search(r"geneval\.score.*0\.5", words_of(tmp_path / "out"))


def test_without_the_extra_the_figures_are_there_and_what_is_missing_is_told(scored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder_report, "find_spec", lambda name: None if name == "jinja2" else object())
    command.run(scored, "here")
    assert "no report.html: it needs jinja2 (pip install 'anyglot[eval]')" in capsys.readouterr().out
    assert (tmp_path / "out" / "metrics.json").is_file()
    assert not (tmp_path / "out" / "report.html").exists()


def test_one_thing_is_asked_of_eval(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--report", "a", "--compare", "b", "c"])
    assert "--report with one" in capsys.readouterr().err
