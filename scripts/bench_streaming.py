"""How soon speech is heard while a language model writes it, and whether it plays on without a gap.

    python scripts/bench_streaming.py [runs/demo/lm] [--words runs/demo/data/emoji.jsonl] [--items 8] [--threads 1]

For words of the held-out part, the spoken answer as a stream of events and, in turn, as a whole: the same ids. Heard
is the first chunk of samples; a player that begins then has a gap if a later chunk comes after all before it is played.
Beside that: how many ids have to be written before the first chunk, by stream; and what decoding costs in chunks
(which is what makes a stream exactly the sound that is decoded at once) against all frames in one go. Writes
streaming.json and streaming.md.
"""

import argparse
import os
import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from anyglot.files import write_json, write_text


def heard(model: Any, prompt: list[Any], seed: int) -> dict[str, Any]:
    """One answer as events: when its chunks come, seconds after it was asked for, and its samples."""
    import numpy as np

    from anyglot.inference.events import MediaChunk

    began = time.perf_counter()
    chunks = []
    for event in model.stream(prompt, to="speech", max_tokens=1100, seed=seed):
        if isinstance(event, MediaChunk):
            chunks.append((time.perf_counter() - began, event))
    rate = chunks[0][1].rate
    played, late = chunks[0][0], 0.0  # when what has come so far will have been played; how long the player waited
    for at, chunk in chunks:
        late += max(0.0, at - played)
        played = max(played, at) + len(chunk.data) / rate
    sound = np.concatenate([chunk.data for _, chunk in chunks])
    return {"first": chunks[0][0], "last": chunks[-1][0], "waited": late, "seconds": len(sound) / rate, "sound": sound}


def measure(directory: Path, words: Path, items: int, seed: int) -> dict[str, Any]:
    """All figures of a model's directory."""
    import numpy as np
    import torch

    from anyglot.data.documents import Message, Part
    from anyglot.data.readers import Problem, read, slices
    from anyglot.inference.anyglot import Anyglot

    model = Anyglot.load(directory)
    found = [document for piece in slices(words) for document in read(piece) if not isinstance(document, Problem)]
    texts = [d.turns[0].parts[0].text for d in found if d.split == "heldout" and d.turns[0].parts[0].type == "text"]
    rows, codes = [], []
    for number, text in enumerate([texts[0], *texts[:: max(1, len(texts) // items)][:items]]):
        prompt = [Message(None, [Part("text", text=text)])]
        row = heard(model, prompt, seed + number)
        began = time.perf_counter()
        (reply,) = model.write([prompt], to="speech", max_tokens=1100, seed=seed + number)
        row["whole"] = time.perf_counter() - began
        row["same"] = bool(np.array_equal(row.pop("sound"), reply.parts[0].data))
        if number:  # the first call warms up
            rows.append({"text": text, "ids": len(reply.ids), **row})
            codes.append(torch.from_numpy(reply.parts[0].codes))
    return {
        "rows": rows,
        "decoding": decoding(model.tokenizers["speech"], codes),
        "ids_before": {stream: ids_before(model, stream) for stream in ("frame", "depth", "delay", "level")},
        "chunk": model.tokenizers["speech"].chunk,
    }


def decoding(tokenizer: Any, codes: list[Any]) -> dict[str, float]:
    """Seconds to decode a second of sound, by chunks and at once; the largest difference of their samples."""
    import numpy as np

    chunk, made, costs = tokenizer.chunk, {}, {}
    for name, frames in (("chunks", chunk), ("at_once", 10**6)):
        tokenizer.chunk = frames
        took = []
        for _ in range(3):
            began = time.perf_counter()
            made[name] = tokenizer.decode(codes)
            took.append(time.perf_counter() - began)
        costs[name] = min(took) * tokenizer.rate / sum(map(len, made[name]))
    tokenizer.chunk = chunk
    apart = max(float(np.abs(a - b).max()) for a, b in zip(made["chunks"], made["at_once"], strict=True))
    return {**costs, "apart": apart}


def ids_before(model: Any, stream: str) -> int:
    """How many ids of a sound of two seconds have to be there before its first samples."""
    import numpy as np

    from anyglot.inference.events import EventStream, MediaChunk
    from anyglot.lm.grammar import Grammar, Span, Turn

    speech = model.tokenizers["speech"]
    modalities = tuple(
        replace(each, stream=stream) if each.spec.modality == "speech" else each for each in model.vocabulary.modalities
    )
    grammar = Grammar(replace(model.vocabulary, modalities=modalities))
    codes = np.zeros((round(2 * speech.spec.rate), len(speech.spec.levels)), np.int64)
    ids = grammar.serialise([Turn(None, [Span("speech", codes)])]).ids.tolist()
    told = EventStream(SimpleNamespace(grammar=grammar, tokenizers={"speech": speech}), ids[:1])  # type: ignore[arg-type]
    return next(n for n, token in enumerate(ids[1:], 1) if any(isinstance(e, MediaChunk) for e in told.feed([token])))


def page(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    rows, decoded = record["rows"], record["decoding"]
    seconds = sum(row["seconds"] for row in rows)
    lines = [
        "# Speech while it is written",
        "",
        f"`{record['command']}`",
        "",
        f"{record['machine']}, load average {record['load']:.1f}, torch {record['torch']}. {len(rows)} answers, "
        f"{seconds:.1f} s of sound, {record['model']}.",
        "",
        "| | median | least | most |",
        "|---|---|---|---|",
    ]
    figures = {
        "first sound of the stream, s": [row["first"] for row in rows],
        "the whole sound without a stream, s": [row["whole"] for row in rows],
        "times sooner": [row["whole"] / row["first"] for row in rows],
        "real-time factor (seconds to write and decode a second)": [row["last"] / row["seconds"] for row in rows],
        "seconds that a player waited after it began": [row["waited"] for row in rows],
    }
    lines += [f"| {name} | {median(v):.3f} | {min(v):.3f} | {max(v):.3f} |" for name, v in figures.items()]
    same = sum(row["same"] for row in rows)
    before = ", ".join(f"{stream} {count}" for stream, count in record["ids_before"].items())
    lines += [
        "",
        f"- Chunks joined are exactly the sound of the reply in {same} of {len(rows)}.",
        f"- Ids before the first sound of two seconds, {record['chunk']} frames a chunk, by stream: {before}.",
        f"- Decoding a second of sound takes {1000 * decoded['chunks']:.1f} ms in chunks, "
        f"{1000 * decoded['at_once']:.1f} ms at once; their samples are at most {decoded['apart']:.1e} apart.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", nargs="?", type=Path, default=Path("runs/demo/lm"))
    arguments.add_argument("--words", type=Path, default=Path("runs/demo/data/emoji.jsonl"))
    arguments.add_argument("--items", type=int, default=8)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--out", type=Path, default=Path("docs/results"))
    options = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    figures = measure(options.run / "model", options.words, options.items, options.seed)
    record = {
        "command": " ".join(["python", "scripts/bench_streaming.py", *sys.argv[1:]]),
        "model": f"the language model of {options.run}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, threads used: {options.threads}",
        "load": os.getloadavg()[0],  # other work beside it
        "torch": version("torch"),
        **figures,
    }
    write_json(options.out / "streaming.json", record)
    write_text(options.out / "streaming.md", page(record))


if __name__ == "__main__":
    main()
