"""Preferences on the demo's model: does the right picture win for names that no preference was about, and at what cost?

    python scripts/bench_finetune.py --run runs/demo

The names that the model knows by heart are split. Of four in five, DPO is shown which of two pictures or recordings is
the one that was asked for; of the others it is only measured. Beside it, fine-tuning takes the same documents: the
baseline of a step's cost. Writes docs/results/finetune.json and finetune.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from anyglot.data.corpora import names, tasks

HELDOUT_ONE_IN = 5
LENGTH, ROWS = 1024, 4


def main() -> None:
    """Make the preferences, train in processes of their own, and write what the logs say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo, with data/ and lm/model")
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"), help="folder for what is trained")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--epochs", type=float, default=2.0)
    arguments = parser.parse_args()
    counts = write_pairs(arguments.run, arguments.work)
    checkpoint = f"checkpoint={arguments.run / 'lm' / 'model'}"
    tokens = arguments.work / "tokens"
    sources = [
        f"sources.{name}.files=[{arguments.run.resolve()}/data/preference_{name}.jsonl]"
        for name in ("train", "heldout")
    ]
    call("tokenize", "demo/tokenize_preference", checkpoint, f"out={tokens}", "sources.pairs=null", *sources)
    shared = [
        checkpoint,
        f"data.length={LENGTH}",
        f"data.rows={ROWS}",
        "log_every=1",
        "evaluate_batches=0",
        "evaluate_every=1000000",
    ]
    store = f"data.stores={{train: {{path: {tokens / 'train'}, epochs: {arguments.epochs}}}}}"
    heldout = f"heldout={{heldout: {tokens / 'heldout'}, train: {tokens / 'train'}}}"
    logs = {}
    configs = {
        "preference": ["data.stores.pairs=null"],
        "finetune": ["data.stores.chat=null", "data.stores.paired=null"],
    }
    for stage, options in configs.items():
        out = arguments.work / stage
        call("train", f"demo/{stage}", *shared, store, heldout, f"out={out}", *options)
        logs[stage] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    write(arguments, counts, logs)


def write_pairs(run: Path, work: Path) -> dict[str, int]:
    """`data/preference_train.jsonl` and `_heldout.jsonl` of the names in `paired.jsonl`; how many pairs in each."""
    work.mkdir(parents=True, exist_ok=True)
    lines = (run / "data" / "paired.jsonl").read_text(encoding="utf-8").splitlines()
    known = [names.read(json.loads(line)["id"]) for line in lines]
    split = {"heldout": known[::HELDOUT_ONE_IN], "train": [n for i, n in enumerate(known) if i % HELDOUT_ONE_IN]}
    counts = {}
    for name, some in split.items():
        records = list(tasks.preferences(some))
        counts[name] = len(records)
        text = "".join(json.dumps(record) + "\n" for record in records)
        (run / "data" / f"preference_{name}.jsonl").write_text(text, encoding="utf-8")
    return counts


def call(*words: str) -> None:
    """Run an anyglot command."""
    subprocess.run([sys.executable, "-m", "anyglot", *words], check=True)


def write(arguments: argparse.Namespace, counts: dict[str, int], logs: dict[str, list[dict]]) -> None:
    """The record and its page."""
    steps = {stage: [line for line in lines if "loss" in line] for stage, lines in logs.items()}
    rate = {stage: statistics.median(line["tokens_per_second"] for line in lines) for stage, lines in steps.items()}
    last: dict[str, float] = {}
    for line in logs["preference"]:
        last |= {key: value for key, value in line.items() if key.startswith("heldout/")}
    figures = {
        name: {key: last[f"heldout/{name}/preference/{key}"] for key in ("accuracy", "margin", "loss")}
        for name in ("train", "heldout")
    }
    value = {
        "command": "python " + " ".join(["scripts/bench_finetune.py", *sys.argv[1:]]),
        "seed": 0,
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        "machine": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "pairs": counts,
        "steps": len(steps["preference"]),
        "figures": figures,
        "tokens_per_second": rate,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "finetune.json").write_text(json.dumps(value, indent=2) + "\n")
    (arguments.out / "finetune.md").write_text(page(value))


def page(value: dict) -> str:
    """The record in words."""
    rows = [
        f"| {what} | {value['pairs'][name]} | {f['accuracy']:.3f} | {f['margin']:.2f} | {f['loss']:.3f} |"
        for name, what in (("train", "trained on"), ("heldout", "of other names"))
        for f in [value["figures"][name]]
    ]
    rate = value["tokens_per_second"]
    return "\n".join(
        [
            "# Preferences on the demo's model",
            "",
            f"`{value['command']}`, {value['machine']}, threads: {value['threads']}; "
            + ", ".join(f"{name} {number}" for name, number in value["versions"].items())
            + ".",
            "",
            f"DPO in {value['steps']} steps, on which of two pictures or recordings is the one that was asked for.",
            "",
            "| pairs | how many | accuracy | margin | loss |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Before the first step the margin is 0 and the loss ln 2 = 0.693 for any pair. A pair is accurate if "
            "the chosen answer gains more on the reference than the rejected one.",
            "",
            f"A step takes {rate['preference']:,.0f} tokens a second; fine-tuning on the same rows "
            f"{rate['finetune']:,.0f}, which is {rate['finetune'] / rate['preference']:.2f} times as many.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
