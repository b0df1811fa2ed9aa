"""CPU time and memory of each attention that trains on a CPU, and of rows shared by two processes.

    python scripts/bench_attention.py

A step is forward and backward of a small language model over packed documents, without the optimizer; every number
comes from a process of its own, of one thread. Memory is what a step takes beyond model, gradients and libraries.
  bool   sdpa with a bool mask in every layer, as transformers has it
  sdpa   sdpa with one additive mask
  flash  torch's flash attention, document by document
Writes docs/results/attention.json and attention.md.
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

MODEL = {"hidden": 256, "layers": 6, "heads": 4, "key_value_heads": 4, "max_length": 65536}
VOCABULARY, TOKENS = 2048, 4096  # ids; places in a batch
SEED = 0


def main() -> None:
    """Measure one after the other, or, with --measure, one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--steps", type=int, default=2, help="measured, after one of warm-up")
    parser.add_argument("--document", type=int, default=200, help="mean length of a document")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--long", type=int, default=4096, help="length of the one row that two processes share")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    record = {
        "command": "python " + " ".join(["scripts/bench_attention.py", *sys.argv[1:]]),
        "seed": SEED,
        "model": MODEL,
        "document": arguments.document,
        "steps": arguments.steps,
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, one thread a process, fp32",
        "backends": [
            {"length": length, "backend": backend, **run(arguments, backend, length, TOKENS // length)}
            for length in arguments.lengths
            for backend in ("bool", "sdpa", "flash")
        ],
        "shared": [
            {"ranks": ranks, "checkpointing": again, **run(arguments, "flash", arguments.long, 1, ranks, again)}
            for again in (False, True)
            for ranks in (1, 2)
        ],
        "long": arguments.long,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "attention.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "attention.md").write_text(page(record), encoding="utf-8")


def run(
    arguments: argparse.Namespace, backend: str, length: int, rows: int, ranks: int = 1, again: bool = False
) -> dict[str, float]:
    """CPU seconds of a step, the quickest, and bytes that it takes, the largest rank's, in processes of their own."""
    what = json.dumps({"backend": backend, "length": length, "rows": rows, "again": again})
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, __file__, "--measure", what, "--steps", str(arguments.steps)]
    command += ["--document", str(arguments.document)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"seconds"')]
    assert len(found) == ranks, output
    result = {key: max(one[key] for one in found) for key in ("seconds", "bytes")}
    print(backend, length, ranks, again, result, file=sys.stderr)
    return result


def measure(arguments: argparse.Namespace) -> None:
    """One measurement, printed as JSON."""
    import torch

    from anyglot.lm import attention
    from anyglot.lm.model import LanguageModel, ModelConfig, build_model
    from anyglot.train.engine import process_group
    from anyglot.train.sequence import join

    what = json.loads(arguments.measure)
    torch.set_num_threads(1)
    with process_group() as (rank, world):
        model = build_model(ModelConfig(**MODEL), VOCABULARY, SEED)
        if what["again"]:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        shared = join(world, model.config, what["length"])
        if what["backend"] == "bool":
            attention.additive_mask = lambda document_ids, _: attention.block_mask(document_ids)
        backend = "flash" if what["backend"] == "flash" else "sdpa"
        language_model = LanguageModel(model, attention=attention.Attention(backend, shared))

        def step(length: int) -> None:
            language_model(*batch(what["rows"], length, arguments.document, rank, world)).total.backward()

        step(64 * world)  # gradients and libraries are there before anything is measured
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far, of imports, is forgotten
        before = peak()
        seconds = []
        for _ in range(1 + arguments.steps):
            began = time.process_time()
            step(what["length"])
            seconds.append(time.process_time() - began)
        print(json.dumps({"seconds": min(seconds[1:]), "bytes": peak() - before}), flush=True)


def peak() -> int:
    """The most memory that this process has held at once, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def batch(rows: int, length: int, document: int, rank: int, world: int):
    """A rank's places of rows full of documents of random lengths, a geometric distribution."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    begins = torch.rand(rows, length, generator=generator) < 1 / document
    begins[:, 0] = True
    document_ids = begins.cumsum(1)
    places = torch.arange(length).expand(rows, length)
    positions = places - torch.where(begins, places, 0).cummax(1).values
    ids = torch.randint(VOCABULARY, (rows, length + 1), generator=generator)
    mine = slice(rank * length // world, (rank + 1) * length // world)
    whole = (ids[:, :-1], positions, document_ids, ids[:, 1:], torch.ones(rows, length))
    return [tensor[:, mine] for tensor in whole]


def page(record: dict) -> str:
    """The page of a record."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [
        "# Attention in packed rows",
        "",
        f"`{record['command']}`, {record['machine']}; {versions}; seed {record['seed']}. A step is forward and "
        f"backward of a model of {record['model']['layers']} layers and width {record['model']['hidden']} over "
        f"{TOKENS:,} places, documents of {record['document']} places on average; the quickest of {record['steps']} "
        "steps. Memory is the peak of a step beyond model, gradients and libraries.",
        "",
        "| length of rows | attention | CPU seconds a step | MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['length']:,} | {row['backend']} | {row['seconds']:.2f} | {row['bytes'] / 1e6:,.0f} |"
        for row in record["backends"]
    ]
    lines += [
        "",
        "`bool` is sdpa with a bool mask in every layer, as transformers has it; `sdpa` has one additive mask for all "
        "layers; `flash` is torch's flash attention, document by document.",
        "",
        f"One row of {record['long']:,} places, by flash, in one process and shared by two (`sequence_parallel: 2`); "
        "memory is that of a process:",
        "",
        "| processes | activations | CPU seconds a step | MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['ranks']} | {'recomputed' if row['checkpointing'] else 'kept'} | {row['seconds']:.2f} "
        f"| {row['bytes'] / 1e6:,.0f} |"
        for row in record["shared"]
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
