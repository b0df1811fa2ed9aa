"""What the quantizers come to, beside vector-quantize-pytorch and faiss in the same run.

    python scripts/bench_quantizers.py [--only vq,lfq] [--quick] [--device cuda] [--out docs/results]

A training step is forward, backward and codebook update; codes are compared from equal codebooks. CPU seconds are those
of the process, wall seconds beside them, memory is the growth of the resident set (on a GPU, of what is allocated).
Writes quantizers.json after every row, quantizers.md after every section, plots in the end, and keeps the sections that
it did not run; with --device cuda they are called quantizers_cuda.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from quantizer_bench import exact_entropy, features, peer, report

from anyglot.files import write_json, write_text

Row = dict[str, Any]
Task = tuple[Row, Callable[[], Row]]  # what identifies a row, and what makes it


@dataclass
class Options:
    quick: bool
    seed: int
    device: torch.device


def compare(options: Options, full: list[peer.Case], quick: list[peer.Case]) -> list[Task]:
    cases = quick if options.quick else full
    return [(case.cell, partial(peer.compare, case, options.seed, options.device)) for case in cases]


def vq(options: Options) -> list[Task]:
    sizes = [(1024, 16384), (8192, 16384), (65536, 2048)]  # where the peer fits: it needs 24 N K bytes
    full = [peer.vq(size, dim, vectors) for size, vectors in sizes for dim in (8, 64, 256)]
    return compare(options, full, [peer.vq(1024, 8, 2048), peer.vq(1024, 64, 2048)])


def vq_alone(options: Options) -> list[Task]:
    full = [peer.vq(65536, dim, 16384, alone=True) for dim in (8, 64, 256)]
    return compare(options, full, [peer.vq(8192, 8, 2048, alone=True)])


def residual(options: Options) -> list[Task]:
    return compare(options, [peer.residual(8, 1024, 256, 16384)], [peer.residual(4, 256, 32, 2048)])


def cosine(options: Options) -> list[Task]:
    full = [peer.vq(8192, dim, 16384, use_cosine_sim=True) for dim in (8, 64)]
    return compare(options, full, [peer.vq(512, 8, 2048, use_cosine_sim=True)])


def simvq(options: Options) -> list[Task]:
    full = [peer.simvq(8192, 64, 16384), peer.simvq(65536, 64, 2048)]
    return compare(options, full, [peer.simvq(512, 16, 2048)])


def fsq(options: Options) -> list[Task]:
    full = [peer.fsq([7, 7, 7, 5, 5, 5], 16384), peer.fsq([8, 8, 8, 6, 5], 16384)]
    return compare(options, full, [peer.fsq([7, 5, 5, 5], 4096)])


def lfq(options: Options) -> list[Task]:
    full = [
        peer.bits("lfq", 10, 16384),
        peer.bits("lfq", 14, 1024),
        peer.bits("lfq", 18, 256),
        peer.bits("lfq", 18, 16384, alone=True),
    ]
    return compare(options, full, [peer.bits("lfq", 8, 2048), peer.bits("lfq", 14, 2048, alone=True)])


def lfq_exact(options: Options) -> list[Task]:
    cells = [{"bits": bits, "N": 64 if options.quick else 512} for bits in ((8,) if options.quick else (8, 12, 13))]
    return [
        (cell, partial(exact_entropy.against_full_softmax, cell["bits"], cell["N"], options.seed)) for cell in cells
    ]


def bsq(options: Options) -> list[Task]:
    full = [peer.bits("bsq", 10, 16384), peer.bits("bsq", 18, 16384, alone=True)]
    return compare(options, full, [peer.bits("bsq", 8, 2048)])


def faiss(options: Options) -> list[Task]:
    from quantizer_bench import against_faiss  # here, because faiss brings an OpenMP runtime of its own

    cells = [{"case": name, "data": data} for name, data in against_faiss.NAMES]
    make = against_faiss.compare
    threads = torch.get_num_threads()
    tasks = [(cell, partial(make, cell["case"], cell["data"], threads, options.quick)) for cell in cells]
    return tasks[:1] if options.quick else tasks


def recall(options: Options) -> list[Task]:
    names = features.search_recipes()[: 2 if options.quick else None]
    return [({"system": name}, partial(features.recall, name, options.quick)) for name in names]


def distortion(options: Options) -> list[Task]:
    return [
        (
            {"family": family, "quantizer": config},
            partial(features.distortion, family, config, options.seed, options.quick),
        )
        for family, configs in features.CURVES.items()
        for config in (configs[:1] if options.quick else configs)
    ]


# The name for --only, the key in the results, and what makes its rows.
SECTIONS: list[tuple[str, str, Callable[[Options], list[Task]]]] = [
    ("vq", "vector_quantize_pytorch", vq),
    ("vq_alone", "alone", vq_alone),
    ("residual", "residual", residual),
    ("cosine", "cosine", cosine),
    ("simvq", "simvq", simvq),
    ("fsq", "fsq", fsq),
    ("lfq", "lfq", lfq),
    ("lfq_exact", "lfq_exact", lfq_exact),
    ("bsq", "bsq", bsq),
    ("faiss", "faiss", faiss),
    ("recall", "recall", recall),
    ("distortion", "distortion_bits", distortion),
]
ON_GPU = ("vq", "vq_alone", "residual", "cosine", "simvq", "fsq", "lfq", "bsq")


def find(rows: list[Row], cell: Row, options: Options) -> Row | None:
    """The row of a cell that was measured as now: rows of quick runs and of seeds other than 0 say so."""
    wanted = {**cell, "quick": options.quick, "seed": options.seed}
    before = {"quick": False, "seed": 0}
    return next((row for row in rows if all({**before, **row}.get(name) == wanted[name] for name in wanted)), None)


def about(arguments: argparse.Namespace) -> Row:
    return {
        "command": " ".join(["python", *sys.argv]),
        "seed": arguments.seed,
        "quick": arguments.quick,
        "threads": torch.get_num_threads(),
        "machine": report.machine(arguments.device),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "vector-quantize-pytorch", "faiss-cpu")},
    }


def main() -> None:
    names = [name for name, _, _ in SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--missing", action="store_true", help="make only rows that the results do not have yet")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more make CPU seconds noisy: idle threads spin")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else ON_GPU if arguments.device.type == "cuda" else names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"--only: no section {unknown[0]!r}; valid: {', '.join(names)}")
    torch.set_num_threads(arguments.threads)
    options = Options(arguments.quick, arguments.seed, arguments.device)
    path = arguments.out / f"quantizers{'_cuda' if arguments.device.type == 'cuda' else ''}.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name, key, section in SECTIONS:
        if name not in wanted:
            continue
        began, rows, before = time.perf_counter(), [], results.get(key, [])
        for cell, make in section(options):
            row = (find(before, cell, options) if arguments.missing else None) or make()
            setting = {"quick": True} if options.quick else {}
            rows.append({**row, **setting, **({"seed": options.seed} if options.seed else {})})
            print(f"{name}: {json.dumps(rows[-1])}", flush=True)
            write_json(path, {**results, key: rows + before[len(rows) :]})  # so that an interruption loses nothing
        made = {"command": " ".join(["python", *sys.argv]), "seconds": round(time.perf_counter() - began, 1)}
        sections = {**results.get("about", {}).get("sections", {}), key: made}
        results |= {key: rows, "about": {**about(arguments), "sections": sections}}
        write_json(path, results)
        write_text(path.with_suffix(".md"), report.markdown(results, path))
    report.draw(results, path)


if __name__ == "__main__":
    main()
