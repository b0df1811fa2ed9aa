"""Tokens per second and memory of our training loop beside Hugging Face Trainer's and DeepSpeed's as it is.

    python scripts/bench_train.py --store runs/demo/tokens/paired
    python scripts/bench_train.py --store runs/demo/tokens/paired --vocabulary 300000 --batch 4

Same model, same data, AdamW. Four rows, each in a process of its own, `--rounds` times in turn:
  ours       our loop (DeepSpeed, block-wise loss) on packed batches
  deepspeed  a DeepSpeed engine around the model's own loss, on the very same packed batches, explicit block mask
  packed     Trainer on the very same packed batches, with the same mask
  padded     Trainer as it is usually fed: the same documents, one a row, padded to the longest of the batch
Useful tokens are those of documents, without padding. Peak memory is the process's largest resident set, libraries
and all. Writes docs/results/train_<precision>[_<vocabulary>].json and .md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROWS = ("ours", "deepspeed", "packed", "padded")
WARMUP = 3
MODEL = {"hidden": 256, "layers": 6, "heads": 4, "key_value_heads": 4, "max_length": 2048}


def main() -> None:
    """Measure in turn, or, with --row, one row in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("runs/demo/tokens/paired"), help="token store of the corpus")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="measured, after 3 of warm-up")
    parser.add_argument("--batch", type=int, default=16, help="rows of a packed batch")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=0, help="rows of the model's embedding, 0: what it needs")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows to measure, by commas: {', '.join(ROWS)}")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments)))
        return
    results: dict[str, list[dict[str, float]]] = {row: [] for row in arguments.only.split(",")}
    for _ in range(arguments.rounds):
        for row in results:
            results[row].append(in_a_process(row, arguments))
            print(row, {key: round(value) for key, value in results[row][-1].items()}, file=sys.stderr)
    write(results, arguments)


def in_a_process(row: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--row", row, "--store", str(arguments.store)]
    for name in ("steps", "batch", "length", "vocabulary", "precision", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return json.loads(output.strip().splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Places and useful tokens per second of one row, and the process's peak memory in bytes."""
    import torch

    from anyglot.data.batches import BatchesConfig, open_batches
    from anyglot.data.mixture import Share
    from anyglot.lm.model import ModelConfig, build_model

    torch.set_num_threads(arguments.threads)
    config = BatchesConfig({"all": Share(str(arguments.store))}, arguments.length, arguments.batch)
    batches = open_batches(config)
    vocabulary = batches.mixture.vocabulary
    model = build_model(ModelConfig(**MODEL), max(vocabulary.size, arguments.vocabulary))
    steps = WARMUP + arguments.steps
    if arguments.row == "ours":
        seconds, places, useful = ours(model, batches, arguments, steps)
    elif arguments.row == "deepspeed":
        seconds, places, useful = deepspeeds(model, packed_batches(batches, steps), arguments)
    elif arguments.row == "packed":
        seconds, places, useful = trainer(model, packed_batches(batches, steps), arguments)
    else:
        seconds, places, useful = trainer(model, padded_batches(batches, arguments, steps), arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "places_per_second": places / seconds,
        "useful_tokens_per_second": useful / seconds,
        "peak_bytes": float(peak),
    }


def ours(model, batches, arguments, steps):
    """Our own step, as `anyglot train` runs it."""
    import torch

    from anyglot.lm.model import LanguageModel
    from anyglot.train.attention import choose_attention
    from anyglot.train.engine import EngineConfig, build_engine, process_group
    from anyglot.train.meter import Meter
    from anyglot.train.pretrain import train_step
    from anyglot.train.weighting import LossWeights

    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    with process_group():
        attention, _ = choose_attention("auto", model, torch.device("cpu"), dtype)
        language_model = LanguageModel(model, attention=attention)
        engine = build_engine(language_model, EngineConfig(zero_stage=1), arguments.batch, dtype)
        vocabulary, device = batches.mixture.vocabulary, torch.device("cpu")
        meter, loss_weights = Meter(vocabulary, 1.0, 1.0, device), LossWeights(vocabulary, {}, "token", device)
        stream = batches.iterate()
        places = useful = 0
        for step in range(steps):
            if step == WARMUP:
                began = time.perf_counter()
            batch = next(stream)
            train_step(engine, batch, arguments.batch, loss_weights, meter, step)
            if step >= WARMUP:
                places, useful = places + batch.input_ids.size, useful + batch.tokens
        return time.perf_counter() - began, places, useful


def deepspeeds(model, data, arguments):
    """DeepSpeed around the model as it is, which builds all logits."""
    import torch

    from anyglot.train.engine import EngineConfig, build_engine, process_group

    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    places = useful = 0
    with process_group():
        engine = build_engine(model, EngineConfig(zero_stage=1), arguments.batch, dtype)
        for step, (here, tokens, batch) in enumerate(data):
            if step == WARMUP:
                began = time.perf_counter()
            engine.backward(engine(**batch, use_cache=False).loss)
            engine.step()
            if step >= WARMUP:
                places, useful = places + here, useful + tokens
        return time.perf_counter() - began, places, useful


def packed_batches(batches, steps):
    """Our packed batches as Trainer takes them: labels unshifted, the block mask explicit."""
    import torch

    from anyglot.lm.attention import block_mask

    for step in range(steps):
        batch = batches.local(step)
        labels = np.full_like(batch.labels, -100)
        labels[:, 1:] = np.where(batch.weights[:, :-1] > 0, batch.labels[:, :-1], -100)  # Trainer's model shifts them
        yield (
            batch.input_ids.size,
            batch.tokens,
            {
                "input_ids": torch.from_numpy(batch.input_ids),
                "position_ids": torch.from_numpy(batch.position_ids),
                "attention_mask": block_mask(torch.from_numpy(batch.document_ids)),
                "labels": torch.from_numpy(labels),
            },
        )


def padded_batches(batches, arguments, steps):
    """The same documents one a row, as many a batch as a packed batch holds on average, padded to the longest."""
    import torch

    (store,) = batches.mixture.stores
    order = np.random.default_rng(0).permutation(len(store))
    per_batch = max(1, round(arguments.batch * arguments.length / store.lengths.mean()))
    for step in range(steps):
        documents = [store.ids(int(order[(step * per_batch + i) % len(order)])) for i in range(per_batch)]
        longest = max(map(len, documents))
        ids = torch.full((per_batch, longest), batches.mixture.vocabulary.pad)
        mask = torch.zeros(per_batch, longest, dtype=torch.long)
        for row, document in enumerate(documents):
            ids[row, : len(document)] = torch.from_numpy(document.astype(np.int64))
            mask[row, : len(document)] = 1
        labels = ids.masked_fill(mask == 0, -100)
        yield ids.numel(), int(mask.sum()), {"input_ids": ids, "attention_mask": mask, "labels": labels}


def trainer(model, data, arguments):
    """Hugging Face Trainer over ready-made batches; timed from the end of its warm-up steps to its last step."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    made = list(data)
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            marks.append(time.perf_counter())

    class Ready(Trainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader([batch for *_, batch in made], batch_size=None)

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=len(made), use_cpu=True, bf16=arguments.precision == "bf16", learning_rate=1e-3,
            adam_beta2=0.95, weight_decay=0.1, max_grad_norm=1.0, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, lr_scheduler_type="constant",
        )  # fmt: skip
        Ready(model=model, args=settings, train_dataset=[0] * len(made), callbacks=[Clock()]).train()
    return marks[-1] - marks[WARMUP - 1], sum(m[0] for m in made[WARMUP:]), sum(m[1] for m in made[WARMUP:])


def write(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Write medians, and the ratios of ours to each other row, medians over the rounds."""

    def ratio(key: str, other: str) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(results["ours"], results[other], strict=True))

    medians = {
        row: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for row, rounds in results.items()
    }
    others = [row for row in results if row != "ours"] if "ours" in results else []
    value = {
        "command": "python " + " ".join(["scripts/bench_train.py", *sys.argv[1:]]),
        "seed": 0,
        "model": MODEL | {"rows": arguments.vocabulary or "those of the store's vocabulary"},
        "batch": [arguments.batch, arguments.length],
        "precision": arguments.precision,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "deepspeed")},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "medians": medians,
        "ours_to": {row: {key: ratio(key, row) for key in medians[row]} for row in others},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"train_{arguments.precision}" + (f"_{arguments.vocabulary}" if arguments.vocabulary else "")
    (arguments.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    rounds = "one round" if arguments.rounds == 1 else f"medians of {arguments.rounds} rounds"
    what = f", {arguments.vocabulary:,} ids" if arguments.vocabulary else ""
    lines = [
        f"# Training beside Hugging Face Trainer and plain DeepSpeed ({arguments.precision}{what})",
        "",
        f"`{value['command']}`, {value['machine']}, {arguments.threads} threads, {rounds}; "
        + ", ".join(f"{name} {number}" for name, number in value["versions"].items())
        + ". In brackets: what ours is of it.",
        "",
        "| | places/s | useful tokens/s | peak memory |",
        "|---|---|---|---|",
    ]
    for row, m in medians.items():
        of = {key: f" ({value['ours_to'][row][key]:.2f})" if row in others else "" for key in m}
        lines.append(
            f"| {row} | {m['places_per_second']:,.0f}{of['places_per_second']} "
            f"| {m['useful_tokens_per_second']:,.0f}{of['useful_tokens_per_second']} "
            f"| {m['peak_bytes'] / 2**30:.2f} GB{of['peak_bytes']} |"
        )
    lines += [
        "",
        "`ours` is our loop; `deepspeed` a DeepSpeed engine around the model's own loss; `packed` Trainer on the same",
        "packed batches; `padded` Trainer on the same documents, one a row. Memory is the whole process's, libraries",
        "included.",
        "",
    ]
    (arguments.out / f"{name}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
