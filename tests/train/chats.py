"""What the tests of fine-tuning share: a small model's directory, and conversations and preferences in its tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from anyglot.data import tokenize
from tests.inference.bundles import make_bundle, write_picture

WORDS = ("black cat", "green apple", "red kite", "old house")


def make_checkpoint(folder: Path) -> Path:
    """An untrained model with real tokenizers, as a run exports it."""
    return make_bundle(folder / "run" / "model").parent


def make_chats(folder: Path, checkpoint: Path) -> Path:
    """A store of conversations of two turns: a picture is named, then one is drawn; and `pairs`, of which is drawn."""
    for number, _ in enumerate(WORDS):
        write_picture(folder / f"{number}.png", 8, 8, number)
    chats = [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "image", "path": f"{number}.png"}]},
                {"role": "assistant", "content": word},
                {"role": "user", "content": f"draw {word}"},
                {"role": "assistant", "content": [{"type": "image", "path": f"{number}.png"}]},
            ]
        }
        for number, word in enumerate(WORDS)
    ]
    pairs = [
        {"id": word, "prompt": f"draw {word}", "chosen": drawn(number), "rejected": drawn((number + 1) % len(WORDS))}
        for number, word in enumerate(WORDS)
    ]
    for name, records in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tokenize._encoder.cache_clear()
    sources = {name: {"files": [str(folder / f"{name}.jsonl")]} for name in ("chats", "pairs")}
    tokenize.run({"out": str(folder / "tokens"), "checkpoint": str(checkpoint), "workers": 1, "sources": sources})
    return folder / "tokens"


def drawn(number: int) -> list[dict[str, Any]]:
    """An answer of words and a picture."""
    parts = [{"type": "text", "text": WORDS[number]}, {"type": "image", "path": f"{number}.png"}]
    return [{"role": "assistant", "content": parts}]


def mapping(stage: str, checkpoint: Path, store: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A config of a few small steps."""
    return {
        "stage": stage,
        "checkpoint": str(checkpoint),
        "out": str(out),
        "data": {"stores": {"all": {"path": str(store), "epochs": 4}}, "length": 80, "rows": 2, "seed": 1},
        "heldout": {"all": str(store)},
        "engine": {"learning_rate": 1e-2},
        "schedule": {"warmup": 1},
        "precision": "fp32",
        "log_every": 1,
        "evaluate_every": 4,
        "save_every": 2,
        **changes,
    }


def train(config: dict[str, Any], path: Path, world: int = 1) -> None:
    """`anyglot train` in processes of their own: DeepSpeed starts only once in a process."""
    path.write_text(json.dumps(config))  # JSON is YAML
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    command = [sys.executable, *launcher, "-m", "anyglot", "train", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
