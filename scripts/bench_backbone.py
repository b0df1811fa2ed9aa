"""SmolLM2-135M-Instruct taught pictures and speech by LoRA and new rows: cost, falling losses, what became of its text.

    anyglot fetch smollm2 --out runs/smollm2/source
    anyglot train smollm2/text
    anyglot tokenize smollm2/tokenize sources.names.limit=250 sources.heldout.limit=400
    python scripts/bench_backbone.py --steps 40 --threads 1 --limit 20

Runs `anyglot train smollm2/lm` in a process of its own, and `anyglot eval smollm2/eval_text` if lm-evaluation-harness
is installed; needs the demo's data, image and speech tokenizers (runs/demo). Writes docs/results/backbone.json and .md.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

QUESTIONS = (
    "What is the capital of France?",
    "Which planet do we live on?",
    "Write the plural of the word mouse.",
)
TRAIN = """
import resource, sys
from anyglot.config import load_mapping
from anyglot.train.pretrain import run
run(load_mapping("smollm2/lm", sys.argv[1:]), "smollm2/lm")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/smollm2"), help="folder of source, text and tokens")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="the demo's folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=100, help="documents of each task of the harness")
    arguments = parser.parse_args()
    words = [f"vars.run={arguments.run}", f"vars.demo={arguments.demo}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", TRAIN, *words, f"steps={arguments.steps}"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    figures: dict[str, Any] = {"peak_memory_gb": int(printed.split()[-1]) * 1024 / 1e9}
    figures |= of_log(arguments.run / "lm", arguments.steps)
    figures["answers"] = answers(arguments.run)
    if find_spec("lm_eval"):
        evaluation = [sys.executable, "-m", "anyglot", "eval", "smollm2/eval_text", *words, f"limit={arguments.limit}"]
        subprocess.run(evaluation, check=True, env=environment)
        figures["harness"] = json.loads((arguments.run / "eval_text" / "metrics.json").read_text())
    write(figures, arguments)


def of_log(run: Path, steps: int) -> dict[str, Any]:
    """Step time, losses and held-out bits of a run's log."""
    from anyglot.train.device import compute_dtype, local_device

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    config = json.loads((run / "config.json").read_text())
    trained = [line for line in lines if "loss" in line]
    places = config["data"]["length"] * config["data"]["rows"]
    seconds = [places * (1 - line["padding"]) / line["tokens_per_second"] for line in trained[1:]]
    heldout = {
        key.removeprefix("heldout/"): {line["step"]: line[key] for line in lines if key in line}
        for key in sorted({key for line in lines for key in line if key.startswith("heldout/")})
    }
    missing = [key for key, values in heldout.items() if not {0, steps} <= values.keys()]
    if missing:
        raise SystemExit(f"{run}: no start or end of {missing}; delete the folder and run this again")
    return {
        "seconds_per_step": statistics.median(seconds),
        "tokens_per_step": statistics.median(places * (1 - line["padding"]) for line in trained),
        "loss": {line["step"]: line["loss"] for line in trained},
        "heldout_bits": heldout,
        "text_bits_change": heldout["text/bits/text"][steps] / heldout["text/bits/text"][0] - 1,
        "lora": config["lora"],
        "precision": str(compute_dtype(config["precision"], local_device())).removeprefix("torch."),
    }


def answers(run: Path) -> dict[str, dict[str, str]]:
    """What the backbone and the trained model say to a few questions of text, greedily, by transformers alone."""
    import transformers

    said: dict[str, dict[str, str]] = {}
    for name, directory in (("backbone", run / "source"), ("trained", run / "lm" / "model")):
        talk = transformers.pipeline("text-generation", model=str(directory), device="cpu")
        for question in QUESTIONS:
            messages = [{"role": "user", "content": question}]
            reply = talk(messages, max_new_tokens=24, do_sample=False, return_full_text=False)[0]["generated_text"]
            said.setdefault(question, {})[name] = " ".join(re.split(r"\s+", reply.strip()))
    return said


def write(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write the two files."""
    names = ("torch", "transformers", "deepspeed", "peft", *(["lm_eval"] if "harness" in figures else []))
    value = {
        "command": "python " + " ".join(["scripts/bench_backbone.py", *sys.argv[1:]]),
        "seed": 0,
        "threads": arguments.threads,
        "versions": {name: version(name) for name in names},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        **figures,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "backbone.json").write_text(json.dumps(value, indent=2) + "\n")
    steps = arguments.steps
    lines = [
        "# SmolLM2 taught pictures and speech",
        "",
        f"`{value['command']}`, {value['machine']}, {arguments.threads} threads, seed 0; "
        + ", ".join(f"{name} {number}" for name, number in value["versions"].items())
        + ".",
        "",
        f"SmolLM2-135M-Instruct with LoRA of rank {figures['lora']['rank']} in all linear layers, and new rows for the "
        f"codes of pictures and speech, in {figures['precision']}; "
        f"{steps} steps of {figures['tokens_per_step']:,.0f} tokens. "
        f"A step takes **{figures['seconds_per_step']:.1f} s**, the process at most "
        f"**{figures['peak_memory_gb']:.1f} GB**. Held-out text costs "
        f"**{100 * figures['text_bits_change']:+.1f} %** bits after it.",
        "",
        f"| held out, bits per code or token | start | step {steps} |",
        "|---|---|---|",
        *(f"| {key} | {values[0]:.3f} | {values[steps]:.3f} |" for key, values in figures["heldout_bits"].items()),
        "",
        "The training loss, in nats: "
        + ", ".join(f"{figures['loss'][s]:.2f} (step {s})" for s in spaced(list(figures["loss"])))
        + ".",
    ]
    if "harness" in figures:
        tasks = sorted({name.partition(".")[2] for name in figures["harness"]})
        lines += ["", f"| lm-evaluation-harness, {arguments.limit} documents | backbone | trained |", "|---|---|---|"]
        for task in tasks:
            found = [figures["harness"].get(f"{model}.{task}") for model in ("backbone", "trained")]
            lines.append(f"| {task} | " + " | ".join(f"{number:.4g}" for number in found) + " |")
    lines += ["", "| asked | the backbone answers | the trained model answers |", "|---|---|---|"]
    lines += [f"| {asked} | {said['backbone']} | {said['trained']} |" for asked, said in figures["answers"].items()]
    (arguments.out / "backbone.md").write_text("\n".join(lines) + "\n")


def spaced(steps: list[int], number: int = 6) -> list[int]:
    """About `number` of the steps, first and last among them."""
    return sorted({steps[round(index * (len(steps) - 1) / (number - 1))] for index in range(number)})


if __name__ == "__main__":
    main()
