"""How fast media become codes and codes media, beside a peer of the same size in the same run.

    python scripts/bench_tokenizers.py [--only speech,action] [--repetitions 7] [--out docs/results]

One thread, random weights. Ours and the peer take turns; a figure is the median CPU time of the turns, a ratio the
median of the turns' ratios, above 1 where ours is faster. Writes tokenizers.json and tokenizers.md; rows that were not
run stay.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench.report import machine
from tokenizer_bench.cases import CASES, Case

from anyglot.files import write_json, write_text

LIBRARIES = ("torch", "transformers", "tokenizers", "faiss-cpu", "scipy")
INTRODUCTION = """# Throughput of the tokenizers

How many seconds of sound, pictures, frames, steps, molecules or vectors a second of one CPU thread turns into codes and
back, with random weights, whole path: arrays in, codes out. Peers have the same shape or one of the same size, and take
turns with ours in one process; a ratio above 1 says that ours is faster.
"""


def cpu(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def turns(ours: Callable[[], Any], peer: Callable[[], Any] | None, repetitions: int) -> dict[str, float]:
    """Median CPU seconds of both, and of their ratio, over turns after a first that is not counted."""
    found = [(cpu(ours), cpu(peer) if peer else 0.0) for _ in range(repetitions + 1)][1:]
    row = {"seconds": statistics.median(mine for mine, _ in found)}
    if peer:
        row["peer_seconds"] = statistics.median(other for _, other in found)
        row["ratio"] = statistics.median(other / mine for mine, other in found)
    return row


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """One row: what is measured, on both ways."""
    torch.manual_seed(0)
    made = case.make()
    row: dict[str, Any] = {"case": case.name, "unit": case.unit, "amount": made.amount, "size": made.size}
    if made.peer:
        row |= {"peer": case.peer, "peer_size": made.peer_size}
    peer = made.peer
    with torch.inference_mode():
        codes = made.ours.encode(made.media)
        peer_codes = peer.encode(made.media) if peer else None
        if peer and made.comparable:
            row["codes_equal"] = made.comparable(codes, peer_codes)
        for verb, mine, other in (("encode", made.media, made.media), ("decode", codes, peer_codes)):
            work = getattr(made.ours, verb)
            rival = getattr(peer, verb) if peer else None
            row[verb] = turns(lambda: work(mine), rival and (lambda: rival(other)), repetitions)  # noqa: B023
            row[verb]["per_second"] = made.amount / row[verb]["seconds"]
    return row


def markdown(results: dict[str, Any]) -> str:
    """All rows as a page."""
    head = "| case | unit | encode /s | peer | times faster | decode /s | peer | times faster | parameters | peer |"
    lines = [INTRODUCTION, head, "|" + "---|" * 10]
    for row in results["rows"]:
        cells = [f"{row['case']}" + (f", beside {row['peer']}" if "peer" in row else ", no peer"), row["unit"]]
        for verb in ("encode", "decode"):
            cells.append(f"{row[verb]['per_second']:,.1f}")
            peer = "ratio" in row[verb]
            cells += [f"{row['amount'] / row[verb]['peer_seconds']:,.1f}" if peer else "-"]
            cells += [f"**{row[verb]['ratio']:.2f}**" if peer else "-"]
        cells += [f"{row['size']:,}", f"{row['peer_size']:,}" if "peer" in row else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *[f"- {case.name}: {case.note}" for case in CASES if case.note]]
    return "\n".join([*lines, "", "## How it was made", "", *[f"- {k}: {v}" for k, v in results["about"].items()], ""])


def main() -> None:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"cases, by commas: {', '.join(names)}")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"--only: no case {unknown[0]!r}; valid: {', '.join(names)}")
    torch.set_num_threads(1)
    path = arguments.out / "tokenizers.json"
    rows = {row["case"]: row for row in (json.loads(path.read_text("utf-8"))["rows"] if path.exists() else [])}
    about = {
        "command": " ".join(["python", *sys.argv]),
        "seed": 0,
        "repetitions": arguments.repetitions,
        "threads": 1,
        "machine": machine(torch.device("cpu")),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
    for case in CASES:
        if case.name in wanted:
            rows[case.name] = measure(case, arguments.repetitions)
            print(json.dumps(rows[case.name]), flush=True)
    results = {"rows": [rows[name] for name in names if name in rows], "about": about}
    write_json(path, results)
    write_text(path.with_suffix(".md"), markdown(results))


if __name__ == "__main__":
    main()
