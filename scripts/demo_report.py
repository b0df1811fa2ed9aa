"""The demo's report: gathers what its steps measured into metrics.json, report.json and report.html."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyglot.eval.report import Comparison, Direction, Figure, Pair, Part, Report, Sample, Section, Stage, build
from anyglot.files import write_json
from anyglot.train.log import read_log

MODALITIES = ("text", "image", "speech")
ARROW = "→"


def write_report(out: Path, steps: list[tuple[str, str]], minutes: float) -> Path:
    """Write metrics.json, report.json and report.html of a finished demo in `out`; steps are (title, command)."""
    metrics = read(out / "eval/tokenizers/metrics.json") | read(out / "eval/lm/metrics.json")
    metrics |= training_figures(out)
    seconds = {path.stem: float(path.read_text()) for path in sorted((out / "logs").glob("*.seconds"))}
    metrics |= {f"seconds.{name}": value for name, value in seconds.items()} | {"seconds.total": sum(seconds.values())}
    write_json(out / "metrics.json", metrics)
    report = Report(
        title="Anyglot: the demo",
        summary=(
            "Emoji pictures, their names, and the names spoken: three tokenizers and one small language model, trained "
            f"from nothing, which knows {metrics['lm.names_paired']:.0f} names in all six directions."
        ),
        commands=[command for _, command in steps],
        facts=facts(out, minutes, seconds),
        sections=sections(),
        stages=stages(),
        comparisons=comparisons(out),
        directions=directions(out),
    )
    report.save(out)
    return build(out)


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
    corpus = read(out / "data/corpus.json")["counts"]
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
    model = Section(
        "Language model",
        [
            Figure(
                "lm.bits_per_image_code_heldout",
                "bits per picture code, held out",
                baselines={"unigram": "lm.bits_per_image_code_heldout_unigram"},
            ),
            Figure(
                "lm.bits_per_speech_code_heldout",
                "bits per speech code, held out",
                baselines={"unigram": "lm.bits_per_speech_code_heldout_unigram"},
            ),
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
    return [image, speech, model]


def stages() -> list[Stage]:
    """The trainings whose curves are drawn."""
    return [
        Stage("Image tokenizer", "image", ["loss"]),
        Stage("Speech tokenizer", "speech", ["loss"]),
        Stage(
            "Language model", "lm", ["bits/text", "bits/image", "bits/speech"], "bits per id on the training mixture"
        ),
        Stage(
            "Language model, held-out names",
            "lm",
            ["heldout/names/bits/image", "heldout/names/bits/speech", "heldout/text/bits/text"],
            "bits per id on names and text that it never saw",
        ),
    ]


def comparisons(out: Path) -> list[Comparison]:
    """Held-out originals beside what their codes give back."""
    found = []
    for modality, samples in read(out / "eval/tokenizers/samples.json").items():
        pairs = [
            Pair(
                s["label"],
                Part(modality, path=f"eval/tokenizers/{s['original']}"),
                Part(modality, path=f"eval/tokenizers/{s['decoded']}"),
            )
            for s in samples
        ]
        found.append(Comparison(f"{modality.capitalize()}, held out", "original, and coded and decoded", pairs))
    return found


def directions(out: Path) -> list[Direction]:
    """Generations of every direction, of names that were learnt and of held-out ones."""
    found = []
    for key, samples in read(out / "eval/lm/samples.json").items():
        direction, group = key.rsplit(".", 1)
        source, target = direction.split("_to_")
        what = "names that were learnt" if group == "seen" else "names that were held out: nobody told it these"
        found.append(Direction(f"{source} {ARROW} {target}, {group}", what, [_sample(sample) for sample in samples]))
    return found


def _sample(value: dict[str, Any]) -> Sample:
    def parts(part: dict[str, str] | None) -> list[Part]:
        if part is None:
            return []
        path = f"eval/lm/{part['path']}" if "path" in part else ""
        return [Part(part["type"], part.get("text", ""), path)]

    return Sample(parts(value["prompt"]), parts(value["answer"]), parts(value["wanted"]), value["note"], value["right"])


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
