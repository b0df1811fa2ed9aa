"""Tokens per second of our training loop beside Hugging Face Trainer's, same model, same data, one run.

    python scripts/bench_train.py --store runs/demo/tokens/paired

Three rows, each in a process of its own, `--rounds` times in turn:
  ours     our loop (DeepSpeed, block-wise loss) on packed batches
  packed   Trainer on the very same packed batches, with the same explicit block mask
  padded   Trainer as it is usually fed: the same documents, one a row, padded to the longest of the batch
Useful tokens are those of documents, without padding. Writes docs/results/train.json and train.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROWS = ("ours", "packed", "padded")
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
    parser.add_argument("--rows", type=int, default=16, help="rows of a packed batch")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments)))
        return
    results: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for _ in range(arguments.rounds):
        for row in ROWS:
            results[row].append(in_a_process(row, arguments))
            print(row, {key: round(value) for key, value in results[row][-1].items()}, file=sys.stderr)
    write(results, arguments)


def in_a_process(row: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--row", row, "--store", str(arguments.store)]
    for name in ("steps", "rows", "length", "precision", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return json.loads(output.strip().splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Places and useful tokens per second of one row."""
    import torch

    from anyglot.data.batches import BatchesConfig, open_batches
    from anyglot.data.mixture import Share
    from anyglot.lm.model import ModelConfig, build_model

    torch.set_num_threads(arguments.threads)
    config = BatchesConfig({"all": Share(str(arguments.store))}, arguments.length, arguments.rows)
    batches = open_batches(config)
    vocabulary = batches.mixture.vocabulary
    model = build_model(ModelConfig(**MODEL), vocabulary.size)
    steps = WARMUP + arguments.steps
    if arguments.row == "ours":
        seconds, places, useful = ours(model, batches, arguments, steps)
    else:
        data = (
            packed_batches(batches, steps) if arguments.row == "packed" else padded_batches(batches, arguments, steps)
        )
        seconds, places, useful = trainer(model, data, arguments)
    return {"places_per_second": places / seconds, "useful_tokens_per_second": useful / seconds}


def ours(model, batches, arguments, steps):
    """Our own step, as `anyglot train` runs it."""
    import torch

    from anyglot.lm.model import LanguageModel
    from anyglot.train.engine import EngineConfig, build_engine, process_group
    from anyglot.train.meter import Meter
    from anyglot.train.pretrain import train_step

    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    with process_group():
        engine = build_engine(LanguageModel(model), EngineConfig(zero_stage=1), arguments.rows, dtype)
        meter = Meter(batches.mixture.vocabulary, {}, 1.0, 1.0, torch.device("cpu"))
        stream = batches.iterate()
        places = useful = 0
        for step in range(steps):
            if step == WARMUP:
                began = time.perf_counter()
            batch = next(stream)
            train_step(engine, batch, arguments.rows, meter, step)
            if step >= WARMUP:
                places, useful = places + batch.input_ids.size, useful + batch.tokens
        return time.perf_counter() - began, places, useful


def packed_batches(batches, steps):
    """Our packed batches as Trainer takes them: labels unshifted, the block mask explicit."""
    import torch

    from anyglot.lm.model import block_mask

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
    per_batch = max(1, round(arguments.rows * arguments.length / store.lengths.mean()))
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
    """Write medians, and the ratios to Trainer of each round."""

    def ratio(key: str, other: str) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(results["ours"], results[other], strict=True))

    medians = {
        row: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for row, rounds in results.items()
    }
    value = {
        "command": "python " + " ".join(["scripts/bench_train.py", *sys.argv[1:]]),
        "seed": 0,
        "model": MODEL,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "deepspeed")},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "medians": medians,
        "tokens_per_second_vs_trainer_packed": ratio("places_per_second", "packed"),
        "useful_tokens_per_second_vs_trainer_padded": ratio("useful_tokens_per_second", "padded"),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"train_{arguments.precision}"
    (arguments.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    lines = [
        f"# Training speed beside Hugging Face Trainer ({arguments.precision})",
        "",
        f"`{value['command']}`, {value['machine']}, {arguments.threads} threads, medians of {arguments.rounds} rounds; "
        + ", ".join(f"{name} {number}" for name, number in value["versions"].items())
        + ".",
        "",
        "| | places/s | useful tokens/s |",
        "|---|---|---|",
        *(
            f"| {row} | {m['places_per_second']:,.0f} | {m['useful_tokens_per_second']:,.0f} |"
            for row, m in medians.items()
        ),
        "",
        f"On equal packed batches ours runs **{value['tokens_per_second_vs_trainer_packed']:.2f} times** as many "
        "tokens per second; against Trainer's padded batches it does "
        f"**{value['useful_tokens_per_second_vs_trainer_padded']:.2f} times** as many useful ones.",
        "",
    ]
    (arguments.out / f"{name}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
