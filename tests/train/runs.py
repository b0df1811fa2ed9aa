"""What the tests of language model runs share: a small store of real shapes, and runs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from anyglot.data.shards import ShardInfo, write_shard
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

IMAGE = CodeSpec("image", (16,), (Axis("height", "sized", 4), Axis("width", "sized", 4)))
SPEECH = CodeSpec("speech", (8, 8), (Axis("time", "open", 30),))
RUN = """
import sys
from anyglot.config import load_mapping
from anyglot.train.pretrain import run
run(load_mapping(sys.argv[1], sys.argv[2:]), sys.argv[1])
"""


def make_store(
    folder: Path, documents: int = 60, seed: int = 0, only: str = "", streams: dict[str, str] | None = None
) -> Path:
    """A token store of random documents with text, pictures and speech, or with `only` one of these."""
    vocabulary = Vocabulary.build(40, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=8, streams=streams)
    grammar, random = Grammar(vocabulary), np.random.default_rng(seed)
    serialised = []
    for index in range(documents):
        spans = [Span("text", random.integers(0, 40, random.integers(1, 9)))]
        if index % 3:
            spans.append(Span("image", random.integers(0, 16, (2, random.integers(1, 5), 1))))
        if index % 2:
            spans.append(Span("speech", random.integers(0, 8, (random.integers(1, 12), 2))))
        if only:
            spans = [span for span in spans if span.modality == only]
        if spans:
            serialised.append((str(index), grammar.serialise([Turn(None, spans)])))
    folder.mkdir(parents=True)
    vocabulary.save(folder)
    info = ShardInfo("job", vocabulary.fingerprint, {}, {}, list(vocabulary.modality_names))
    write_shard(folder / "00000.arrow", serialised, info)
    return folder


def write_config(path: Path, store: Path, out: Path) -> Path:
    """A run of 8 steps with accumulation, evaluation, and a checkpoint every 3 steps."""
    path.write_text(
        f"""
stage: pretrain
out: {out}
data:
  stores: {{all: {{path: {store}}}}}
  length: 64
  rows: 4
  seed: 3
heldout: {{all: {store}}}
model: {{hidden: 32, layers: 2, heads: 4, key_value_heads: 2, attention_dropout: 0.1}}
schedule: {{kind: cosine, warmup: 2}}
modality_weights: {{speech: 0.5}}
micro_rows: 1
precision: fp32
steps: 8
log_every: 1
evaluate_every: 4
evaluate_batches: 2
save_every: 3
""",
        encoding="utf-8",
    )
    return path


def command(config: Path, world: int, *overrides: str) -> list[str]:
    """The command of a run in `world` processes."""
    launcher = [sys.executable]
    if world > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        script = config.with_name("run.py")
        script.write_text(RUN)
        return [*launcher, str(script), str(config), *overrides]
    return [*launcher, "-c", RUN, str(config), *overrides]


def train(config: Path, world: int, *overrides: str, succeeds: bool = True) -> str:
    """Run to the end in processes of their own; return what was printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command(config, world, *overrides), capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert (result.returncode == 0) == succeeds, result.stderr[-3000:]
    return result.stdout + result.stderr


def kill_after(config: Path, out: Path, step: int, *overrides: str, before: str = "") -> None:
    """Start a run and kill -9 it as soon as its log shows `step`. before: code that its process runs first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [before + word if word == RUN else word for word in command(config, 1, *overrides)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 200
    while not any(line["step"] >= step for line in log(out)):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def log(out: Path) -> list[dict]:
    """The lines of a run's log so far, one torn by a kill left out."""
    path = out / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(out: Path) -> list[float]:
    """The training loss of every step."""
    return [line["loss"] for line in log(out) if "loss" in line]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The exported model's tensors."""
    return load_file(out / "model" / "model.safetensors")
