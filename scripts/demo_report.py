"""The demo's report: gathers what its steps measured into metrics.json, report.json and report.html."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyglot.config import load_mapping
from anyglot.eval.directions import Evaluation, comparisons_of, directions_of
from anyglot.eval.report import Cell, Figure, Matrix, Report, Section, Stage, build
from anyglot.files import write_json
from anyglot.train.log import read_log

JUDGED = {  # modality -> the figure that says how much of what was written is right, and what it means
    "text": ("exact", "written exactly"),
    "image": ("nearest_is_right", "nearest is its own"),
    "speech": ("heard_exactly", "heard exactly"),
    "video": ("nearest_is_right", "nearest shows it"),
    "motion": ("nearest_is_right", "nearest is called so"),
    "graph": ("exact", "the very molecule"),
    "item": ("right_item", "the very film"),
}


def write_report(out: Path, steps: list[tuple[str, str]], minutes: float) -> Path:
    """Write metrics.json, report.json and report.html of a finished demo in `out`; steps are (title, command)."""
    metrics = read(out / "eval/tokenizers/metrics.json") | read(out / "eval/lm/metrics.json")
    metrics |= read(out / "eval/chat/metrics.json")
    metrics |= training_figures(out)
    seconds = {path.stem: float(path.read_text()) for path in sorted((out / "logs").glob("*.seconds"))}
    metrics |= {f"seconds.{name}": value for name, value in seconds.items()} | {"seconds.total": sum(seconds.values())}
    write_json(out / "metrics.json", metrics)
    report = Report(
        title="Anyglot: the demo",
        summary=(
            "Names, pictures, speech, filmed movements, motion capture, molecules, and films that people rated: a "
            "tokenizer for each modality and one small language model over all their codes, trained from nothing."
        ),
        commands=[command for _, command in steps],
        facts=facts(out, minutes, seconds),
        matrix=matrix(metrics),
        sections=sections(),
        stages=stages(),
        comparisons=comparisons_of(Evaluation.read(out, "eval/tokenizers")),
        directions=directions_of(Evaluation.read(out, "eval/lm")),
        records=["eval/tokenizers", "eval/lm"],
    )
    report.save(out)
    return build(out)


def matrix(metrics: dict[str, Any]) -> Matrix:
    """Source by target: what the mixture taught, and what was measured of it."""
    stores = load_mapping("demo/lm")["data"]["stores"]
    sources = load_mapping("demo/tokenize")["sources"]
    trained = {tuple(order) for name in stores for order in sources[name].get("orders", [])}
    trained |= {("text", "text"), ("item", "item")}  # of paragraphs, of histories: what comes next
    cells: dict[str, dict[str, Cell]] = {}
    for source in JUDGED:
        cells[source] = {}
        for target, (figure, _) in JUDGED.items():
            keys = [
                f"lm.{source}_to_{target}.{name}" for name in (f"{figure}_seen", f"{figure}_heldout", "span_validity")
            ]
            seen, heldout, validity = (key if key in metrics else "" for key in keys)
            more = f"lm.{source}_to_{target}.seen" if seen else ""
            cells[source][target] = Cell((source, target) in trained, seen, heldout, validity, more)
    what = (
        "Of everything the model was asked to write: how much of it is right, for what it was to learn by heart and "
        "for what was held out (of movements: another time under the same words), and how many spans parse and decode. "
        "Where it says only trained, nothing is asked."
    )
    return Matrix("Source by target", what, {name: meaning for name, (_, meaning) in JUDGED.items()}, cells)


def training_figures(out: Path) -> dict[str, float]:
    """What the language model's run says of itself."""
    lines = [line for line in read_log(out / "lm") if "loss" in line]
    tokens = read(out / "tokens/manifest.json")["sources"]
    last = lines[-1]
    return {
        "lm.steps": last["step"],
        "lm.names_paired": tokens["paired"]["records"],
        "lm.tokens_paired": tokens["paired"]["tokens"],
        "lm.tokens_per_second": sum(line["tokens_per_second"] for line in lines) / len(lines),
        "lm.utilisation": sum(line["utilisation"] for line in lines) / len(lines),
        "lm.padding": sum(line["padding"] for line in lines) / len(lines),
        "lm.loss_first": lines[0]["loss"],
        "lm.loss_last": last["loss"],
    }


def facts(out: Path, minutes: float, seconds: dict[str, float]) -> dict[str, str]:
    """Seeds, versions, machine and durations."""
    corpus = dict(read(out / "data/corpus.json")["counts"])
    corpus["filmed movements"] = len((out / "moves/moves.jsonl").read_text("utf-8").splitlines())
    corpus["molecules"] = len((out / "molecules/molecules.jsonl").read_text("utf-8").splitlines())
    corpus["rated films"] = len((out / "movielens/items.jsonl").read_text("utf-8").splitlines())
    return {
        "budget": f"{minutes:g} minutes; took {sum(seconds.values()) / 60:.1f}",
        "corpus": ", ".join(f"{number:,} {name}" for name, number in corpus.items()),
        "seeds": "0 for every step (each config's `seed`)",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{n} {version(n)}" for n in ("anyglot", "torch", "deepspeed", "transformers")),
    }


def sections() -> list[Section]:
    """The figures, with the bars that they are held against."""
    image = Section(
        "Pictures",
        [
            Figure(
                "image.psnr_heldout",
                "PSNR of held-out pictures",
                "dB",
                24,
                baselines={"mean colour": "image.mean_colour_psnr_heldout"},
            ),
            Figure("image.ssim_heldout", "SSIM of held-out pictures", digits=3),
            Figure("image.codebook_usage", "codes in use", bar=0.9, digits=3),
            Figure("image.codes", "codes per picture", digits=0),
        ],
    )
    speech = Section(
        "Speech",
        [
            Figure("speech.kbps", "bitrate", "kbps", 1.8, "lower"),
            Figure(
                "speech.wer_decoded_heldout",
                "word errors of Whisper tiny.en on decoded held-out names",
                digits=3,
                baselines={"originals": "speech.wer_original"},
            ),
            Figure("speech.wer_added", "word errors that coding adds", bar=0.05, better="lower", digits=3),
            Figure("speech.pesq", "PESQ (wide band)"),
            Figure("speech.stoi", "STOI", digits=3),
        ],
    )
    video = Section(
        "Video",
        [
            Figure(
                "video.psnr_heldout",
                "PSNR of held-out films",
                "dB",
                26,
                baselines={
                    "mean picture": "video.mean_picture_psnr_heldout",
                    "colour": "video.mean_colour_psnr_heldout",
                },
            ),
            Figure("video.first_frame_psnr_heldout", "PSNR of their first frames, coded as pictures", "dB"),
            Figure("video.ssim_heldout", "SSIM of their frames", digits=3),
            Figure("video.change_error_heldout", "error of what changes (a still picture: 1)", better="lower"),
            Figure("video.pixels_per_code", "pixels per code", bar=30, digits=0),
            Figure("video.codebook_usage", "codes in use", digits=3),
        ],
    )
    motion = Section(
        "Motion",
        [
            Figure("motion.variance_left_heldout", "variance left, held-out movements", better="lower", digits=3),
            Figure(
                "motion.velocity_error_heldout",
                "error of how fast joints move",
                better="lower",
                digits=3,
                baselines={"standing still": "motion.still_velocity_error_heldout"},
            ),
            Figure("motion.joints_error", "joints' error, held out", "m", better="lower", digits=3),
            Figure("motion.joints_error_aligned", "the same, poses laid on each other", "m", better="lower", digits=3),
            Figure("motion.codes_per_second", "codes per second", digits=0),
        ],
    )
    graph = Section(
        "Graphs",
        [
            Figure("graph.valid_heldout", "decoded held-out molecules that are valid", bar=0.95, digits=3),
            Figure(
                "graph.exact_heldout",
                "the very molecule",
                bar=0.6,
                digits=3,
                baselines={"not counting stereo": "graph.exact_flat_heldout"},
            ),
            Figure(
                "graph.tanimoto_heldout",
                "Tanimoto similarity of fingerprints",
                digits=3,
                baselines={"to another molecule": "graph.stranger_tanimoto_heldout"},
            ),
            Figure("graph.bits", "bits per molecule", digits=0, baselines={"as SMILES": "graph.smiles_bits"}),
        ],
    )
    items = Section(
        "Items",
        [
            Figure("item.explained_variance", "variance of embeddings explained", digits=3),
            Figure("item.explained_variance_heldout", "the same of new films", digits=3),
            Figure("item.collision_rate", "films that share codes before re-assignment", better="lower", digits=3),
            Figure("item.unresolved", "films that share codes in the end", bar=0.0, better="lower", digits=3),
            Figure("item.codebook_usage", "codes in use", digits=3),
        ],
    )
    bits = [
        Figure(
            f"lm.bits_per_{name}_code_heldout",
            f"bits per {name} code, held out",
            baselines={"unigram": f"lm.bits_per_{name}_code_heldout_unigram"},
        )
        for name in ("image", "speech", "video", "motion", "graph", "item")
    ]
    model = Section(
        "Language model",
        [
            *bits,
            Figure(
                "lm.text_to_image.nearest_is_right_seen",
                "name to picture: the nearest training picture is the right one",
                bar=0.6,
                baselines={
                    "untrained": "lm.text_to_image.nearest_is_right_untrained",
                    "shuffled names": "lm.text_to_image.nearest_is_right_shuffled",
                },
            ),
            Figure("lm.speech_to_image.nearest_is_right_seen", "speech to picture: likewise"),
            Figure(
                "lm.text_to_speech.wer_seen",
                "name to speech: word errors of the transcript",
                bar=0.5,
                better="lower",
                baselines={"untrained": "lm.text_to_speech.wer_untrained"},
            ),
            Figure("lm.image_to_speech.wer_seen", "picture to speech: likewise", better="lower"),
            Figure(
                "lm.image_to_text.exact_seen",
                "picture to name: exactly right",
                baselines={
                    "held out": "lm.image_to_text.exact_heldout",
                    "untrained": "lm.image_to_text.exact_untrained",
                },
            ),
            Figure(
                "lm.speech_to_text.exact_seen",
                "speech to name: exactly right",
                baselines={
                    "held out": "lm.speech_to_text.exact_heldout",
                    "untrained": "lm.speech_to_text.exact_untrained",
                },
            ),
            Figure(
                "lm.span_validity",
                "generated spans that parse and decode",
                bar=1.0,
                digits=3,
                baselines={"spans": "lm.spans_written"},
            ),
        ],
    )
    chat = Section(
        "Conversations",
        [
            Figure("conversation.right_turn_1", "first turns answered rightly"),
            *(
                Figure(
                    f"conversation.right_turn_{number}",
                    f"turns number {number} answered rightly",
                    baselines={"with nothing said before": f"conversation.right_turn_{number}_alone"},
                )
                for number in (2, 3)
            ),
            *(Figure(f"conversation.modality_turn_{n}", f"turns number {n} in the right modality") for n in (1, 2, 3)),
            Figure("conversation.right_throughout", "conversations answered rightly from first to last"),
        ],
    )
    return [image, speech, video, motion, graph, items, model, chat]


def stages() -> list[Stage]:
    """The trainings whose curves are drawn."""
    return [
        *(Stage(f"{name.capitalize()} tokenizer", name, ["loss"]) for name in list(JUDGED)[1:]),
        Stage("Language model", "lm", [f"bits/{name}" for name in JUDGED], "bits per id on the training mixture"),
        Stage(
            "Language model, held out",
            "lm",
            [
                *(f"heldout/names/bits/{name}" for name in ("image", "speech")),
                *(f"heldout/moves/bits/{name}" for name in ("video", "motion")),
                "heldout/molecules/bits/graph",
                "heldout/histories/bits/item",
                "heldout/text/bits/text",
            ],
            "bits per id on what it never saw",
        ),
    ]


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
