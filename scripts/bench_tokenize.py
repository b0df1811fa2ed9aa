"""How many documents a minute become tokens, by the number of workers: processes of one machine, and Ray's.

    python scripts/bench_tokenize.py [--run runs/demo] [--workers 1,2] [--out docs/results]

The pictures of the demo (`anyglot fetch demo`, `anyglot train demo/image`, `anyglot train demo/text`), one thread a
worker. Start-up is measured apart: it is the time of a run over 2 shards. Writes tokenize.json and tokenize.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from anyglot.files import write_json, write_text

PER_SHARD = 50


def seconds(run: Path, workers: int, ray: str, limit: int) -> float:
    """Wall seconds of one `anyglot tokenize` over `limit` pictures, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "out": f"{folder}/tokens",
            "text": str(run / "text" / "tokenizer"),
            "tokenizers": {"image": str(run / "image" / "tokenizer")},
            "sources": {"images": {"files": [str(run / "data" / "images.jsonl")], "limit": limit}},
            "documents_per_shard": PER_SHARD,
            "workers": workers,
            "ray": ray,
        }
        path = Path(folder) / "tokenize.yaml"
        path.write_text(json.dumps(config))
        began = time.perf_counter()
        command = [sys.executable, "-m", "anyglot", "tokenize", str(path)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="the demo's folder")
    parser.add_argument("--workers", default="1,2", help="numbers of workers, by commas")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    pictures = sum(1 for _ in (options.run / "data" / "images.jsonl").open(encoding="utf-8"))
    rows = []
    for kind, ray in (("processes", ""), ("Ray", "local")):
        for workers in map(int, options.workers.split(",")):
            start = seconds(options.run, workers, ray, 2 * PER_SHARD)
            took = seconds(options.run, workers, ray, pictures)
            rate = (pictures - 2 * PER_SHARD) / (took - start)
            rows.append({"kind": kind, "workers": workers, "start": start, "pictures_per_second": rate})
            print(json.dumps(rows[-1]), flush=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "pictures": pictures,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "ray")),
    }
    write_json(options.out / "tokenize.json", {**about, "rows": rows})
    lines = ["# Tokenizing, by the number of workers", "", "| made by | workers | pictures per second | start-up, s |"]
    lines.append("|---|---|---|---|")
    lines += [f"| {r['kind']} | {r['workers']} | {r['pictures_per_second']:.0f} | {r['start']:.1f} |" for r in rows]
    lines += ["", *(f"- {name}: {value}" for name, value in about.items()), ""]
    write_text(options.out / "tokenize.md", "\n".join(lines))


if __name__ == "__main__":
    main()
