"""What became of configs/large: its curves, figures and samples, out of its folder into docs/results.

    make demo
    anyglot tokenize large/tokenize
    anyglot train large/lm
    anyglot eval large/eval
    python scripts/report_large.py runs/large && python scripts/demo_picture.py runs/large docs/results/large.png

Writes large.json, large.md and large_curves.svg.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench.report import machine
from safetensors import safe_open

from anyglot.eval.plots import curves_svg
from anyglot.files import write_json, write_text
from anyglot.train.log import read_log

CURVES = (
    "loss",
    *(f"bits/{name}" for name in ("text", "image", "speech", "video", "motion", "graph", "item")),
    *(f"heldout/names/bits/{name}" for name in ("image", "speech")),
    "heldout/text/bits/text",
    "heldout/molecules/bits/graph",
)
FIGURES = {  # source, target -> figure
    ("text", "image"): "nearest_is_right",
    ("text", "speech"): "wer",
    ("image", "text"): "exact",
    ("speech", "text"): "exact",
    ("text", "video"): "nearest_is_right",
    ("text", "motion"): "nearest_is_right",
    ("video", "text"): "exact",
    ("text", "graph"): "exact",
    ("graph", "text"): "exact",
    ("text", "item"): "right_item",
    ("item", "text"): "exact",
}
VERBS = ("tokenize large/tokenize", "train large/lm", "eval large/eval")
BITS = ("text_token", "image_code", "speech_code", "video_code", "motion_code", "graph_code", "item_code")


def main() -> None:
    """Read a run's folder and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with lm/ and eval/lm/")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    lines = read_log(arguments.run / "lm")
    settings = json.loads((arguments.run / "lm" / "config.json").read_text("utf-8"))
    trained = [line for line in lines if "loss" in line]
    with safe_open(arguments.run / "lm" / "model" / "model.safetensors", "pt") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
    record = {
        "commands": [
            "make demo",
            "anyglot tokenize large/tokenize",
            "anyglot train large/lm",
            "anyglot eval large/eval",
        ],
        "seed": settings["seed"],
        "machine": f"{machine(torch.device('cpu'))}; one thread, beside other work",
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        "parameters": sum(torch.Size(size).numel() for size in sizes),
        "steps": trained[-1]["step"],
        "tokens": trained[-1]["step"] * settings["data"]["length"] * settings["data"]["rows"],
        "hours": sum(ends(trained)) / 3600,
        "metrics": json.loads((arguments.run / "eval" / "lm" / "metrics.json").read_text("utf-8")),
    }
    write_json(arguments.out / "large.json", record)
    drawn = [key for key in CURVES if any(line.get(key) is not None for line in lines)]
    write_text(arguments.out / "large_curves.svg", curves_svg(lines, drawn).decode())
    write_text(arguments.out / "large.md", page(record))


def ends(lines: list[dict[str, Any]]) -> list[float]:
    """Seconds of every sitting: a run that goes on begins its clock anew."""
    times = [line["time"] for line in lines]
    return [time for time, after in zip(times, [*times[1:], 0.0], strict=True) if after < time]


def page(record: dict[str, Any]) -> str:
    """The page of a record."""
    metrics, versions = record["metrics"], record["versions"]
    lines = [
        "# A larger model over all of the demo's data",
        "",
        f"{record['parameters'] / 1e6:.1f} million parameters, embeddings included; {record['steps']:,} steps, "
        f"{record['tokens'] / 1e6:.1f} million places, {record['hours']:.1f} hours of training. All 1,850 names "
        "instead of 80, all movements and views, 20,000 molecules instead of 4,000 with 100 by heart, all 1,682 films.",
        "",
        "```sh",
        *record["commands"],
        "```",
        "",
        f"Seed {record['seed']}; {record['machine']}; torch {versions['torch']}, transformers "
        f"{versions['transformers']}, deepspeed {versions['deepspeed']}.",
        "",
        "![curves](large_curves.svg)",
        "",
        "| asked | figure | trained on | held out | untrained |",
        "|---|---|---|---|---|",
    ]
    for (source, target), figure in FIGURES.items():
        name = f"lm.{source}_to_{target}.{figure}"
        cells = [_cell(metrics.get(f"{name}_{group}")) for group in ("seen", "heldout", "untrained")]
        lines.append(f"| {source} to {target} | {figure} | {' | '.join(cells)} |")
    valid = f"{100 * metrics['lm.span_validity']:.1f} %"
    lines += [
        "",
        f"{metrics['lm.spans_written']:,.0f} media spans were written, {valid} of them parse and decode.",
        "",
        "| held out, bits | model | frequencies |",
        "|---|---|---|",
    ]
    for name in BITS:
        key = f"lm.bits_per_{name}_heldout"
        lines.append(
            f"| {name.replace('_', ' ')} | {_cell(metrics.get(key))} | {_cell(metrics.get(f'{key}_unigram'))} |"
        )
    lines += [
        "",
        "What it makes of words it was trained on (red: not what was asked for):",
        "",
        "![samples](large.png)",
        "",
    ]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
