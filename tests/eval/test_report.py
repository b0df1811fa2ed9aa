import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the report needs the extra 'eval': pip install 'anyglot[eval]'")
pytest.importorskip("matplotlib", reason="the report needs the extra 'eval': pip install 'anyglot[eval]'")

import soundfile
from PIL import Image

from anyglot.errors import AnyglotError, MediaError
from anyglot.eval import report
from anyglot.eval.plots import running_mean, spectrogram_png
from anyglot.eval.report import Cell, Comparison, Direction, Figure, Matrix, Pair, Part, Report, Sample, Section, Stage

HOSTILE = '<script>alert("x")</script> & <b>'


@pytest.fixture
def run(tmp_path):
    """A folder as a demo run leaves it: two pictures, a sound, a log, figures, report.json."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(np.arange(8000) * 0.2), 16000)
    (tmp_path / "image").mkdir()
    lines = [{"step": step, "steps": 50, "loss": 1 / step, "time": step, "psnr": None} for step in range(1, 51)]
    (tmp_path / "image" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = {"image.psnr": 25.1234, "speech.wer": 0.6, "speech.wer_original": 0.2, "extra.figure": 7}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    picture, decoded, sound = Part("image", path="a.png"), Part("image", path="b.png"), Part("speech", path="a.wav")
    drawn = Sample([Part("text", text=HOSTILE)], [decoded], [picture], right=True)
    figures = [
        Figure("image.psnr", "PSNR", "dB", bar=24),
        Figure("speech.wer", "WER", bar=0.25, better="lower", baselines={"original": "speech.wer_original"}),
        Figure("lm.bits", "Bits", bar=1.0, better="lower"),
    ]
    Report(
        title=f"A run {HOSTILE}",
        summary="What it did.",
        commands=["make demo MINUTES=5"],
        facts={"seed": "0", "torch": "2.14"},
        sections=[Section("Media", figures)],
        stages=[Stage("Image tokenizer", "image", ["loss", "psnr"]), Stage("Nothing yet", "absent", ["loss"])],
        comparisons=[Comparison("Pictures", "held out", [Pair("black cat", picture, decoded)])],
        directions=[
            Direction("text to image", "seen names", [drawn]),
            Direction("image to speech", "seen names", [Sample([picture], [sound], note="a note", right=False)]),
        ],
    ).save(tmp_path)
    return tmp_path


class Page(HTMLParser):
    """Tags of a page with their attributes, its text, and whether every element that was opened is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_loads_nothing(run):
    page = Page(report.build(run).read_text("utf-8"))
    assert page.open == []
    sources = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert len(sources) > 8
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]


def test_text_is_escaped(run):
    written = report.build(run).read_text("utf-8")
    assert "<script" not in written
    assert Page(written).text.count(HOSTILE) == 3  # title, heading, prompt


def test_media_are_inside_byte_for_byte(run):
    import base64

    page = Page(report.build(run).read_text("utf-8"))
    inside = {
        base64.b64decode(a["src"].split(",")[1]) for _, a in page.tags if (a.get("src") or "").startswith("data:")
    }
    for name in ("a.png", "b.png", "a.wav"):
        assert (run / name).read_bytes() in inside
    assert [tag for tag, _ in page.tags].count("audio") == 1


def test_figures_stand_beside_bars_and_baselines(run):
    words = " ".join(Page(report.build(run).read_text("utf-8").replace("<", " <")).text.split())
    assert "PSNR image.psnr 25.12 dB ≥ 24 met" in words
    assert "WER speech.wer 0.60 ≤ 0.25 original: 0.20 not met" in words
    assert "Bits lm.bits not measured ≤ 1 not met" in words  # what was not measured is never met
    assert "1 of 3 bars met" in words
    assert "1 further figures extra.figure 7" in words


def test_curves_are_drawn_or_their_absence_said(run):
    page = Page(report.build(run).read_text("utf-8"))
    drawn = [a for tag, a in page.tags if tag == "img" and a.get("class") == "curves"]
    assert [a["alt"] for a in drawn] == ["curves of Image tokenizer"]
    assert drawn[0]["src"].startswith("data:image/svg+xml")
    assert "no log" in page.text


def test_building_twice_gives_the_same_page(run):
    assert report.build(run).read_bytes() == report.build(run).read_bytes()


def test_saved_and_loaded_reports_are_equal(run):
    loaded = Report.load(run)
    before = (run / "report.json").read_text()
    loaded.save(run)
    assert (run / "report.json").read_text() == before
    assert isinstance(loaded.directions[0].samples[0].wanted[0], Part)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, r"metrics\.json: missing"),
        ("report.json", "{", r"report\.json: not valid JSON"),
        ("report.json", '{"titel": "x"}', r"report\.json: not a report .*titel"),
        ("a.png", None, r"a\.png: the report names it"),
    ],
)
def test_what_is_wrong_is_named(run, file, content, message):
    (run / file).unlink() if content is None else (run / file).write_text(content)
    with pytest.raises(AnyglotError, match=message):
        report.build(run)


def test_running_mean_equals_the_obvious_loop():
    values = np.random.default_rng(0).normal(size=57)
    for width in (1, 4, 100):
        slow = [values[max(0, i - width + 1) : i + 1].mean() for i in range(len(values))]
        np.testing.assert_allclose(running_mean(values, width), slow, atol=1e-12)


def test_a_tone_is_one_bright_row_of_its_spectrogram(tmp_path):
    import io

    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000), 16000)
    picture = np.asarray(Image.open(io.BytesIO(spectrogram_png(tmp_path / "tone.wav")))).astype(float)
    brightest = picture.sum(axis=(1, 2)).argmax()
    assert abs(brightest - 64 * (1 - 2000 / 8000)) <= 2


def test_a_broken_sound_is_named(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"")
    with pytest.raises(MediaError, match=re.escape("broken.wav")):
        spectrogram_png(tmp_path / "broken.wav")


def test_the_matrix_says_what_was_trained_and_measured(run):
    asked = Cell(True, "lm.text_to_image.right_seen", "lm.text_to_image.right_heldout", "lm.text_to_image.validity")
    cells = {"text": {"text": Cell(True), "image": asked}, "image": {"text": Cell(False), "image": Cell(False)}}
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {asked.seen: 0.75, asked.validity: 1.0}
    (run / "metrics.json").write_text(json.dumps(metrics))
    loaded = Report.load(run)
    loaded.matrix = Matrix("Source by target", "What it can do.", {"text": "exact", "image": "nearest is right"}, cells)
    loaded.save(run)
    assert Report.load(run).matrix == loaded.matrix
    words = " ".join(Page(report.build(run).read_text("utf-8").replace("<", " <")).text.split())
    assert "from to text exact to image nearest is right" in words
    assert "text trained 0.75 learnt not measured held out 1.00 valid image · ·" in words


def test_words_of_a_file_are_shown(run):
    (run / "item.txt").write_text(HOSTILE)
    loaded = Report.load(run)
    loaded.directions[0].samples[0].answer = [Part("item", path="item.txt")]
    loaded.save(run)
    assert Page(report.build(run).read_text("utf-8")).text.count(HOSTILE) == 4
    (run / "item.txt").unlink()
    with pytest.raises(AnyglotError, match="item.txt: the report names it, but it cannot be read"):
        report.build(run)
