"""Writing media beside Hugging Face generate, and many requests at once beside one after the other.

    python scripts/bench_generate.py

One model with fresh weights and 300,000 ids. Both write image spans after the same prompts: ours with the head cut to
the codes, guidance as a second row of the forward; `generate` with its prefix-constrained processor over tensors made
once, and with `guidance_scale`. Greedy ids are compared. Then requests for text, pictures and speech: together in the
slots of one engine, and one by one. Seconds are those of one thread's CPU, so that other work beside it costs nothing.
Writes docs/results/generate.json and .md.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.files import write_json, write_text
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.engine import Engine
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.grammar import Grammar
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

IDS = 300_000
CODES = 8192
GREEDY, DRAWN = SamplingConfig(temperature=0), SamplingConfig(top_k=50)
SCALE = 3.0
SAME = {None: "drawn", True: "yes", False: "no"}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--side", type=int, default=8, help="rows and columns of codes of a picture")
    parser.add_argument("--requests", type=int, default=16, help="of the mixed batch")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="the quickest counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decoder = make_decoder(arguments)
    compare(decoder, argparse.Namespace(side=arguments.side, rounds=1), 1, GREEDY, 1.0)  # warms up
    figures: dict[str, Any] = {"spans": {}}
    for batch in (1, 8):
        for name, sampling, guidance in (("greedy", GREEDY, 1.0), ("top-k 50", DRAWN, 1.0), ("guided", GREEDY, SCALE)):
            figures["spans"][f"{name}, batch {batch}"] = compare(decoder, arguments, batch, sampling, guidance)
    figures["mixed"] = mixed(decoder, arguments)
    record = {
        "command": "python " + " ".join(["scripts/bench_generate.py", *sys.argv[1:]]),
        "model": {"ids": IDS, "hidden": arguments.hidden, "layers": arguments.layers, "dtype": "fp32"},
        "asked": {name: getattr(arguments, name) for name in ("side", "requests", "rounds")},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        **figures,
    }
    write_json(arguments.out / "generate.json", record)
    write_text(arguments.out / "generate.md", page(record))


def make_decoder(arguments: argparse.Namespace) -> Decoder:
    """A model with fresh weights over text, pictures of a fixed grid and speech of two levels."""
    side = arguments.side
    image = CodeSpec("image", (CODES,), (Axis("height", "fixed", side), Axis("width", "fixed", side)))
    speech = CodeSpec("speech", (1024, 1024), (Axis("time", "open", 150),))
    media = CODES + 2 * 1024 + 4
    vocabulary = Vocabulary.build(IDS - media - 64 - 7, "t", [(image, "i"), (speech, "s")])
    assert vocabulary.size == IDS
    shape = ModelConfig(hidden=arguments.hidden, layers=arguments.layers, heads=4, max_length=2048)
    model = build_model(shape, vocabulary.size).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)  # surer choices than a fresh model's, so that ties are rare
    return Decoder(model, Grammar(vocabulary))


def compare(
    decoder: Decoder, arguments: argparse.Namespace, batch: int, sampling: SamplingConfig, guidance: float
) -> dict[str, Any]:
    """Codes a second of both, and whether they wrote the same."""
    random = np.random.default_rng(batch)
    prompts = [[decoder.vocabulary.bos, *random.integers(0, 1000, 31).tolist()] for _ in range(batch)]
    requests = [
        Request(prompt, ("image",), 1, seed=seed, sampling={"image": sampling}, guidance=guidance)
        for seed, prompt in enumerate(prompts)
    ]
    ours, ids = quickest(arguments.rounds, lambda: decoder.write(requests))
    theirs, peer_ids = quickest(arguments.rounds, lambda: by_peer(decoder, prompts, sampling, guidance, arguments.side))
    codes = batch * arguments.side**2
    return {
        "codes_per_second": codes / ours,
        "peer_codes_per_second": codes / theirs,
        "times_faster": theirs / ours,
        "identical": ids == peer_ids if sampling is GREEDY else None,
    }


def quickest(rounds: int, run: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """Seconds of the quickest round, and what it wrote."""
    best, ids = float("inf"), []
    for _ in range(rounds):
        start = time.process_time()
        ids = run()
        best = min(best, time.process_time() - start)
    return best, ids


@torch.inference_mode()
def by_peer(
    decoder: Decoder, prompts: list[list[int]], sampling: SamplingConfig, guidance: float, side: int
) -> list[list[int]]:
    """The same spans by Hugging Face generate."""
    rules, prompt = decoder.automaton.rules_of("image"), torch.tensor(prompts)
    opener, closer, codes = (torch.arange(*r) for r in ((rules.opener, rules.opener + 1), *rules.symbols[::-1]))
    whole = side**2 + 2

    def allowed(_row: int, ids: torch.Tensor) -> torch.Tensor:
        place = len(ids) - prompt.shape[1]
        return opener if place == 0 else closer if place == whole - 1 else codes

    drawn: dict[str, Any] = {"do_sample": False}
    if sampling is DRAWN:
        drawn = {"do_sample": True, "top_k": sampling.top_k, "temperature": 1.0, "top_p": 1.0}
    if guidance != 1:
        base = torch.full((len(prompts), 1), decoder.vocabulary.bos)
        drawn |= {"guidance_scale": guidance, "negative_prompt_ids": base}
    ids = decoder.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=whole,
        prefix_allowed_tokens_fn=allowed,
        pad_token_id=decoder.vocabulary.pad,
        **drawn,
    )
    written: list[list[int]] = ids[:, prompt.shape[1] :].tolist()
    return written


def mixed(decoder: Decoder, arguments: argparse.Namespace) -> dict[str, Any]:
    """Requests of all kinds that come at once, in `slots` slots and in one."""
    random = np.random.default_rng(0)
    kinds = [(("image",), 1), (("speech",), 1), (("text",), 0)]
    requests = [
        Request(
            [decoder.vocabulary.bos, *random.integers(0, 1000, random.integers(5, 200)).tolist()],
            *kinds[number % 3],
            max_tokens=int(random.integers(50, 300)),
            seed=number,
            sampling=dict.fromkeys(("text", "image", "speech"), DRAWN),
        )
        for number in range(arguments.requests)
    ]
    found = {}
    for name, slots in (("together", arguments.slots), ("one by one", 1)):
        engine, first = Engine(decoder, slots), {}
        start, ids = time.process_time(), 0
        for request in requests:
            engine.submit(request)
        while engine.busy:
            for written in engine.step():
                first.setdefault(written.ticket, time.process_time() - start)
                ids += len(written.ids)
        seconds = time.process_time() - start
        waits = sorted(first.values())
        found[name] = {
            "slots": slots,
            "ids_per_second": ids / seconds,
            "seconds": seconds,
            "first_id_median": statistics.median(waits),
            "first_id_soonest": waits[0],
            "first_id_last": waits[-1],
        }
    return found | {"times_faster": found["one by one"]["seconds"] / found["together"]["seconds"]}


def page(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    shape, asked = record["model"], record["asked"]
    together, alone = record["mixed"]["together"], record["mixed"]["one by one"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [
        "# Writing media, beside Hugging Face generate",
        "",
        f"`{record['command']}`, {record['machine']}; {versions}. A model of {shape['ids']:,} ids, width "
        f"{shape['hidden']} and {shape['layers']} layers with fresh weights, fp32; seconds of one thread's CPU, the "
        f"quickest of {asked['rounds']}.",
        "",
        f"Spans of {asked['side']} x {asked['side']} codes out of {CODES:,}. `generate` has its prefix-constrained "
        "processor over tensors made once, and `guidance_scale` where guided. Greedy and guided rows take the "
        "likeliest code.",
        "",
        "| | ours, codes/s | generate, codes/s | times faster | the same ids |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['codes_per_second']:,.0f} | {row['peer_codes_per_second']:,.0f} | "
            f"**{row['times_faster']:.1f}** | {SAME[row['identical']]} |"
            for name, row in record["spans"].items()
        ),
        "",
        f"{asked['requests']} requests for pictures, speech and text in turn that come at once, with prompts of 6 to "
        "200 ids, drawn among the 50 likeliest. Seconds to the first id are counted from when all came:",
        "",
        "| | ids/s | seconds | first id: soonest | median | last |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {row['ids_per_second']:,.0f} | {row['seconds']:.1f} | {row['first_id_soonest']:.2f} | "
            f"{row['first_id_median']:.2f} | {row['first_id_last']:.2f} |"
            for name, row in ((f"together, in {together['slots']} slots", together), ("one by one", alone))
        ),
        "",
        f"Together they take **{record['mixed']['times_faster']:.1f} times** less.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
