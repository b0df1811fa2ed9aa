"""What a trained model gains and forgets when it learns folk songs by `anyglot extend`, by settings.

    python examples/tune.py runs/tune/data
    python scripts/bench_extend.py --checkpoint runs/demo/lm/model --tokens runs/demo/tokens

Runs, each in a process of its own: new rows begun in three ways, without the layers; then rows and layers, with and
without replay of what the model knows. Writes docs/results/new-modality.json and new-modality.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "tune.py"
GROUPS = (("heldout", "tune"), ("text", "text"), ("names", "image"), ("names", "speech"))  # store, what of it


def main() -> None:
    """Run all settings and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo/lm/model"))
    parser.add_argument("--tokens", type=Path, default=Path("runs/demo/tokens"), help="of the demo")
    parser.add_argument("--data", type=Path, default=Path("runs/tune/data"), help="songs.jsonl of examples/tune.py")
    parser.add_argument("--work", type=Path, default=Path("runs/tune/bench"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--every", type=int, default=4, help="take one song of so many")
    parser.add_argument("--steps", type=int, default=40, help="of each of the two runs")
    arguments = parser.parse_args()
    songs = (arguments.data / "songs.jsonl").read_text("utf-8").splitlines()[:: arguments.every]
    data = arguments.work / "data"
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "songs.jsonl").exists():  # another time would make other tokens
        (data / "songs.jsonl").write_text("\n".join(songs), encoding="utf-8")
    replay = [f"replay.{name}={arguments.tokens / name}" for name in ("paired", "text", "names")]
    steps = arguments.steps
    settings = {
        "random rows": ["init=random", "layers_steps=0", *replay],
        "mean rows": ["init=mean", "layers_steps=0", *replay],
        "codebook rows": ["layers_steps=0", *replay],
        "rows and layers": [f"layers_steps={steps}", *replay],
        "without replay": [f"layers_steps={steps}"],
    }
    rows = []
    for name, words in settings.items():
        print(name, file=sys.stderr)
        rows.append({"name": name, **extended(name, [*words, f"rows_steps={steps}"], data, arguments)})
    about = {
        "command": f"python scripts/bench_extend.py --every {arguments.every} --steps {steps}",
        "songs": len(songs),
        "steps": steps,
        "frequencies": by_frequency(arguments.work / "without replay" / "tokens"),
        "machine": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {package: version(package) for package in ("torch", "transformers", "deepspeed")},
    }
    record = {"about": about, "rows": rows}
    (arguments.out / "new-modality.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "new-modality.md").write_text(page(record), encoding="utf-8")


def extended(name: str, settings: list[str], data: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """What one `anyglot extend` reports."""
    out = arguments.work / name
    words = [str(arguments.checkpoint), "--modality", str(EXAMPLE), "--data", str(data), "--out", str(out)]
    words += [f"heldout.text={arguments.tokens / 'text_heldout'}", f"heldout.names={arguments.tokens / 'heldout'}"]
    words += ["pretrain={data: {length: 512, rows: 4}, evaluate_every: 1000, evaluate_batches: 4, save_every: 1000}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "anyglot", "extend", *words, *settings], check=True, env=environment)
    report: dict[str, object] = json.loads((out / "report.json").read_text("utf-8"))
    return {**report, "settings": settings}


def by_frequency(tokens: Path) -> float:
    """Bits per code of held-out songs if each code comes as often as in training, level by level (add-one smoothed)."""
    from anyglot.data.shards import TokenStore

    seen, heldout = (TokenStore(tokens / split).unigram_by_block() for split in ("train", "heldout"))
    bits, codes = 0.0, 0
    for block in ("tune.0", "tune.1"):
        share = (seen[block] + 1) / (seen[block] + 1).sum()
        bits -= float((heldout[block] * np.log2(share)).sum())
        codes += int(heldout[block].sum())
    return bits / codes


def page(record: dict) -> str:
    """The page of a record."""
    about, rows = record["about"], record["rows"]
    first = rows[0]["bits"]
    lines = [
        "# Teaching the demo's model folk songs",
        "",
        f"`{about['command']}`, after `make demo`. {about['machine']}; torch {about['versions']['torch']}, "
        f"transformers {about['versions']['transformers']}, DeepSpeed {about['versions']['deepspeed']}. "
        f"{about['songs']:,} songs; {about['steps']} steps of new rows alone, {about['steps']} of the layers too, "
        "2,048 places each. Bits per code on held-out documents; in brackets the change against the checkpoint.",
        "",
        "| | " + " | ".join(f"{group} ({store})" for store, group in GROUPS) + " | logits apart |",
        "|---|" + "---|" * (len(GROUPS) + 1),
        "| codes as frequent as in training | " + f"{about['frequencies']:.2f} | | | | |",
        "| checkpoint as it came | " + " | ".join(_cell(first["checkpoint"], *group) for group in GROUPS) + " | |",
    ]
    for row in rows:
        last = list(row["bits"])[-1]
        cells = [_cell(row["bits"][last], *group, row["bits"]["checkpoint"]) for group in GROUPS]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {row['logits_apart']['rows']:g} |")
    lines += [
        "",
        "Logits apart: the largest difference of logits over old ids, after old ids, once new rows are trained (before "
        f"the first step it was {max(row['logits_apart']['start'] for row in rows):g} in all runs).",
        "",
    ]
    return "\n".join(lines)


def _cell(bits: dict, store: str, group: str, before: dict | None = None) -> str:
    """Bits of one kind of code, and how far from before."""
    value = bits.get(store, {}).get(f"bits/{group}")
    was = (before or {}).get(store, {}).get(f"bits/{group}")
    return "" if value is None else f"{value:.2f}" + ("" if was is None else f" ({value - was:+.2f})")


if __name__ == "__main__":
    main()
