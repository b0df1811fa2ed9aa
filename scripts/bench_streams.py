"""A stack of speech codes put in line in five ways: what each costs and how well it is predicted.

    python scripts/bench_streams.py [--run runs/demo] [--steps 400] [--only frame,level,delay,depth,factor]

Names and the names spoken, the same documents, codec, model and number of steps for every way; Muon. Needs the demo's
data and its text and speech tokenizers (`make demo`, or its steps up to `anyglot train demo/text`). Bits are of all
codes of held-out speech, over its seconds. Writes streams.json after each way, and streams.md.
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

from anyglot.files import write_json, write_text

WAYS: dict[str, dict[str, Any]] = {
    "frame": {"streams": {"speech": "frame"}},
    "level": {"streams": {"speech": "level"}},
    "delay": {"streams": {"speech": "delay"}},
    "depth": {"streams": {"speech": "depth"}},
    "factor": {"streams": {"speech": "frame"}, "factors": {"speech": 2}},  # each code of 1,024 as two of 32
}
MODEL = {"hidden": 192, "layers": 4, "heads": 4, "key_value_heads": 4, "max_length": 2048}
MODEL_OF = {"depth": {**MODEL, "depth": {"hidden": 128, "layers": 2, "heads": 4}}}
SPOKEN = 8  # held-out names that are spoken, all at once


def anyglot(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "anyglot", *words], check=True)


def prepare(way: str, run: Path, out: Path, steps: int) -> None:
    """Tokenize and train one way; what is finished is kept."""
    source = {"files": [str(run / "data" / "emoji.jsonl")], "orders": [["text", "speech"], ["speech", "text"]]}
    tokenizers = {"speech": str(run / "speech" / "tokenizer")}
    tokenize = {
        "out": str(out / "tokens"),
        "text": str(run / "text" / "tokenizer"),
        "tokenizers": tokenizers,
        **WAYS[way],
        "sources": {"train": {**source, "split": "train"}, "heldout": {**source, "split": "heldout"}},
    }
    train = {
        "stage": "pretrain",
        "out": str(out / "lm"),
        "data": {"stores": {"train": {"path": str(out / "tokens" / "train")}}, "length": 512, "rows": 8},
        "tokenizers": {"text": str(run / "text" / "tokenizer"), **tokenizers},
        "model": MODEL_OF.get(way, MODEL),
        "engine": {"optimizer": "muon", "learning_rate": 4e-3, "weight_decay": 0.1, "zero_stage": 1},
        "schedule": {"kind": "wsd", "warmup": 20, "decay": 0.5, "final": 0.0},
        "steps": steps,
        "evaluate_every": steps,
        "save_every": steps,
    }
    for name, config, words in (("tokenize", tokenize, ("tokenize",)), ("lm", train, ("train",))):
        write_json(out / f"{name}.yaml", config)  # JSON is YAML
        anyglot(*words, str(out / f"{name}.yaml"))


def measure(way: str, run: Path, out: Path) -> dict[str, Any]:
    """What a trained way comes to."""
    import numpy as np
    import torch

    from anyglot.data.documents import Message, Part
    from anyglot.data.shards import TokenStore
    from anyglot.eval.bits import bits_per_code
    from anyglot.eval.documents import load_documents, part_of, text_of
    from anyglot.inference.anyglot import Anyglot

    model = Anyglot.load(out / "lm" / "model")
    speech = model.tokenizers["speech"]
    per_second = len(speech.spec.levels) * speech.config.sample_rate / speech.hop  # codes
    heldout, train = str(out / "tokens" / "heldout"), str(out / "tokens" / "train")
    bits = bits_per_code(model, [heldout], [train])
    log = [json.loads(line) for line in (out / "lm" / "log.jsonl").read_text("utf-8").splitlines()]
    speeds = sorted(line["tokens_per_second"] for line in log if "tokens_per_second" in line)
    store = TokenStore(train, model.vocabulary)
    seconds_of_speech = spoken_seconds(
        store, model.vocabulary, per_second * WAYS[way].get("factors", {}).get("speech", 1)
    )
    documents = [
        d for d in load_documents([run / "data" / "emoji.jsonl"]) if d.split == "heldout" and part_of(d, "speech")
    ]
    prompts = [[Message(None, [Part("text", text=text_of(d))])] for d in documents[:SPOKEN]]
    torch.manual_seed(0)
    began = time.perf_counter()
    replies = model.write(prompts, to="speech", max_tokens=400)
    took = time.perf_counter() - began
    made = sum(np.asarray(reply.parts[-1].codes).size for reply in replies) / per_second
    return {
        "way": way,
        "ids_per_second_of_speech": float(store.lengths.sum()) / seconds_of_speech,
        "bits_per_second": bits["lm.bits_per_speech_code_heldout"] * per_second,
        "bits_per_second_unigram": bits["lm.bits_per_speech_code_heldout_unigram"] * per_second,
        "seconds_per_step": 512 * 8 / speeds[len(speeds) // 2],
        "speech_per_second_of_training": speeds[len(speeds) // 2] * seconds_of_speech / float(store.lengths.sum()),
        "generation_seconds_per_second": took / made,
        "parameters": sum(p.numel() for p in model.model.parameters())
        + sum(p.numel() for p in (model.decoder.depth.parameters() if model.decoder.depth else [])),
    }


def spoken_seconds(store: Any, vocabulary: Any, codes_per_second: float) -> float:
    """Seconds of speech in a store."""
    blocks = [b for b in vocabulary.blocks if b.kind == "codes" and b.modality == "speech"]
    codes = sum(
        int(((ids >= b.start) & (ids < b.end)).sum()) for ids in map(store.ids, range(len(store))) for b in blocks
    )
    return codes / codes_per_second


def page(record: dict[str, Any]) -> str:
    """The table of a record, and how it was made."""
    rows = record["rows"]
    lines = [
        "# A stack of speech codes in line, in five ways",
        "",
        "Names and the names spoken; four codes of 1,024, 25 times a second. `frame`, `level` and `delay` write every",
        "code as an id; `depth` has the later levels said by a small transformer inside one position; `factor` writes",
        "each code as two of 32. The same documents, model and number of steps. Bits are of held-out speech; by the",
        f"frequencies of the ids it takes {rows[0]['bits_per_second_unigram']:.0f} bits a second (of halves, `factor`,",
        f"{rows[-1]['bits_per_second_unigram']:.0f}). Generation: {SPOKEN} names at a time.",
        "",
        "| way | bits per second | seconds per step | speech per second of training, s "
        "| generation, s per s of speech | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['way']} | {row['bits_per_second']:.0f} | {row['seconds_per_step']:.2f} "
            f"| {row['speech_per_second_of_training']:.1f} | {row['generation_seconds_per_second']:.2f} "
            f"| {row['parameters']:,} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in record.items() if name != "rows"), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="the demo's folder")
    parser.add_argument("--work", type=Path, default=Path("runs/streams"), help="folder for tokens and models")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    file = options.out / "streams.json"
    found = {row["way"]: row for row in json.loads(file.read_text("utf-8"))["rows"]} if file.exists() else {}
    about = {
        "command": " ".join(["python", *sys.argv]),
        "steps": f"{options.steps} of 8 rows of 512 ids; seed 0",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed")),
    }
    for way in options.only.split(","):
        prepare(way, options.run, options.work / way, options.steps)
        found[way] = measure(way, options.run, options.work / way)
        print(json.dumps(found[way]), flush=True)
        rows = [found[name] for name in WAYS if name in found]
        record = {**about, "rows": rows}
        write_json(file, record)
        write_text(file.with_suffix(".md"), page(record))


if __name__ == "__main__":
    main()
