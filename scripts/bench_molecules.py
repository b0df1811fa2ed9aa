"""What the molecule tokenizer comes to on held-out molecules, with a picture of some before and after.

    python scripts/bench_molecules.py [--only two_levels] [--steps 700] [--runs DIR] [--out docs/results]

Fetches the corpus and trains each tokenizer that is not finished below --runs, by the config graph/molecules with
another quantizer. Writes molecules.json after every tokenizer, then molecules.md, and images/molecules.png.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyglot.data.documents import Part
from anyglot.eval.graph import evaluate
from anyglot.files import write_json, write_text
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.molecules import Molecule, picture
from anyglot.train.media import MediaCorpus, find_parts

VARIANTS = {  # changes of graph/molecules
    "two_levels": [],
    "three_levels": ["model.quantizer.levels=3"],
    "fsq": ["model.quantizer={type: product, groups: 2, inner: {type: fsq, sizes: [8, 8, 8]}}"],
}
SIZES = ((1, 8), (9, 12), (13, 16), (17, 20), (21, 24))  # heavy atoms
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"by commas: {', '.join(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_molecules"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    anyglot("fetch", "molecules", "--out", str(arguments.runs / "data"))
    file = arguments.runs / "data" / "molecules.jsonl"
    record = arguments.out / "molecules.json"
    rows: dict[str, Any] = json.loads(record.read_text())["tokenizers"] if record.exists() else {}
    for index, name in enumerate(arguments.only.split(",")):
        run = arguments.runs / f"{name}-{arguments.steps}-{arguments.seed}"  # a finished one is not trained again
        changes = [f"steps={arguments.steps}", f"seed={arguments.seed}", *VARIANTS[name]]
        if not (run / "done.json").exists():
            anyglot("train", "graph/molecules", f"data.files=[{file}]", f"out={run}", *changes)
        done = json.loads((run / "done.json").read_text())
        tokenizer = load_tokenizer(run / "tokenizer")
        media = {split: held(file, tokenizer, split) for split in ("heldout", "train")}
        rows[name] = {
            "quantizer": done["config"]["model"]["quantizer"],
            "steps": done["steps"],
            "training_seconds": done["seconds"],
            **evaluate(tokenizer, media["heldout"], usage_of=media["train"][:4000]),  # type: ignore[arg-type]
            **speed(tokenizer, media["heldout"]),
            "by_size": by_size(tokenizer, media["heldout"]),
        }
        write_json(record, {"about": about(arguments), "tokenizers": rows})
        if index == 0:
            grid(tokenizer, media["heldout"], arguments.out.parent / "images" / "molecules.png")
    write_text(arguments.out / "molecules.md", page(json.loads(record.read_text())))


def anyglot(*words: str) -> None:
    """Run an anyglot command as a user does."""
    subprocess.run([sys.executable, "-m", "anyglot", *words], check=True)


def held(file: Path, tokenizer: Any, split: str) -> list[Molecule]:
    """The molecules of a split that the tokenizer takes."""
    parts: list[Part] = find_parts([file], "graph", split)
    corpus = MediaCorpus(parts, tokenizer, 0)
    found = [corpus._read(index) for index in range(len(parts) if split == "heldout" else 4000)]
    return [molecule for molecule in found if molecule is not None]


def speed(tokenizer: Any, media: list[Molecule]) -> dict[str, float]:
    """Molecules a second of this process."""
    began = time.process_time()
    codes = tokenizer.encode(media)
    encoded = time.process_time()
    tokenizer.decode(codes)
    decoded = time.process_time()
    return {
        "encoded_per_cpu_second": len(media) / (encoded - began),
        "decoded_per_cpu_second": len(media) / (decoded - encoded),
    }


def by_size(tokenizer: Any, media: list[Molecule]) -> list[dict[str, float]]:
    """Share of exact molecules by heavy atoms."""
    decoded = tokenizer.decode(tokenizer.encode(media))
    rows = []
    for low, high in SIZES:
        right = [a == b for a, b in zip(media, decoded, strict=True) if low <= len(a) <= high]
        rows.append({"from": low, "to": high, "items": len(right), "exact": float(np.mean(right))})
    return rows


def grid(tokenizer: Any, media: list[Molecule], path: Path) -> None:
    """Originals above what comes back: molecules spread over the held-out ones, and two that do not come back."""
    decoded = tokenizer.decode(tokenizer.encode(media))
    pairs = list(zip(media, decoded, strict=True))
    chosen = pairs[:: len(pairs) // (SHOWN - 2)][: SHOWN - 2] + [(a, b) for a, b in pairs if a != b][:2]
    rows = [np.concatenate([picture(pair[side], 220) for pair in chosen], axis=1) for side in (0, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).quantize(64).save(path, optimize=True)


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": " ".join(["python", "scripts/bench_molecules.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torch-geometric", "rdkit")},
    }


def page(record: dict[str, Any]) -> str:
    """The results as Markdown."""
    columns = {
        "exact_heldout": "exact", "exact_flat_heldout": "exact but for space", "valid_heldout": "valid",
        "tanimoto_heldout": "Tanimoto", "stranger_tanimoto_heldout": "Tanimoto of strangers",
        "likeliest_exact_heldout": "exact, unassembled", "likeliest_valid_heldout": "valid, unassembled",
        "codebook_usage": "usage",
    }  # fmt: skip
    lines = [
        "# Molecules, before and after",
        "",
        "Held-out molecules of up to 24 heavy atoms, decoded from their codes. See [the page](../graph.md) for what is",
        "compared. "
        + ", ".join(f"{name} {value}" for name, value in record["about"].items() if name != "command")
        + ".",
        "",
        f"`{record['about']['command']}`",
        "",
        "| tokenizer | codes | bits | " + " | ".join(columns.values()) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for name, row in record["tokenizers"].items():
        cells = " | ".join(f"{row[key]:.3f}" for key in columns)
        lines.append(f"| {name} | {row['codes']:.1f} | {row['bits']:.0f} | {cells} |")
    first = next(iter(record["tokenizers"].values()))
    lines += [
        "",
        f"SMILES of the same {first['items']:.0f} molecules has {first['smiles_bits']:.0f} bits on average.",
        "",
    ]
    lines += [
        "| tokenizer | steps | training, s | encoded per CPU second | decoded | exact by heavy atoms |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in record["tokenizers"].items():
        sizes = ", ".join(f"{size['from']}-{size['to']}: {size['exact']:.2f}" for size in row["by_size"])
        rates = f"{row['encoded_per_cpu_second']:.0f} | {row['decoded_per_cpu_second']:.0f}"
        lines.append(f"| {name} | {row['steps']} | {row['training_seconds']:.0f} | {rates} | {sizes} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
