"""The maskgit stage: learn to tell masked codes of a medium from the others and from words (arXiv 2202.04200).

It reads the token shards of `anyglot tokenize`. One process; batch k and all that is drawn in step k are a function of
(seed, k), so that a run that was killed goes on as if it had not been. `out` gets log.jsonl, tensorboard/ and state.pt
while it runs, then `model/`, which `anyglot generate` takes, metrics.json and done.json.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, cos, log, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn import functional as F

from anyglot.config import to_mapping, typed
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.lm.grammar import Grammar
from anyglot.lm.maskgit import Block, MaskedTransformer, MaskGITConfig
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import compute_dtype, local_device
from anyglot.train.export import check_tokenizers
from anyglot.train.finished import is_finished
from anyglot.train.log import TrainingLog
from anyglot.train.schedule import ScheduleConfig, factor
from anyglot.train.state import load_state, save_state, seed_everything

MEASURED_MASKS = 4  # that every held-out medium is measured under


@dataclass
class MaskGITStageConfig:
    """Configuration of the stage.

    stores: folders of token shards; their documents' media are learned, given the text of the same document.
    heldout: such folders, measured in the end. tokenizers: directories of "text" and of the modality, which are copied
    into the result. drop_words: share of media that are learned without their words, for guidance.
    label_smoothing: share of the target that lies evenly on all codes.
    """

    stage: str = "maskgit"
    out: str = MISSING
    stores: list[str] = MISSING
    heldout: list[str] = field(default_factory=list)
    tokenizers: dict[str, str] = MISSING
    modality: str = "image"
    model: MaskGITConfig = field(default_factory=MaskGITConfig)
    drop_words: float = 0.1
    label_smoothing: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(kind="cosine", final=0.0))
    batch_size: int = 64
    steps: int = 10_000
    precision: str = "auto"
    seed: int = 0
    log_every: int = 20
    save_every: int = 500

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.save_every) < 1:
            raise ConfigError("steps, batch_size, log_every and save_every must be at least 1")
        if not (0 <= self.drop_words <= 1 and 0 <= self.label_smoothing < 1):
            raise ConfigError("drop_words must lie in [0, 1], label_smoothing in [0, 1)")
        if self.lr <= 0 or self.weight_decay < 0 or self.clip <= 0:
            raise ConfigError("lr and clip must be above 0, weight_decay at least 0")


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage.

    Args:
        mapping: the config's plain values, see MaskGITStageConfig. where: its name in error messages.
    Raises:
        AnyglotError: no such media in the stores, pieces that do not belong together, a loss that is not finite, or an
            `out` that holds another model.
    """
    config = typed(MaskGITStageConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "masked transformer"):
        return
    began = time.time()
    if not config.stores:
        raise ConfigError(f"{where}: stores names no folder of token shards")
    vocabulary = TokenStore(config.stores[0]).vocabulary
    for name in (TEXT, config.modality):
        if name not in config.tokenizers:
            raise ConfigError(f"{where}: tokenizers.{name} is not set; the result needs it to read and write")
    check_tokenizers(vocabulary, config.tokenizers)
    seed_everything(config.seed)
    model = MaskedTransformer(config.model, vocabulary, config.modality).to(local_device())
    blocks = read_blocks(model, config.stores)
    if not blocks:
        raise AnyglotError(f"{where}: no document of {', '.join(config.stores)} holds any {config.modality}")
    heldout = read_blocks(model, config.heldout)
    train(model, blocks, config)
    metrics = {"media": len(blocks), "parameters": sum(parameter.numel() for parameter in model.parameters())}
    told = {"bits": bits(model, heldout), "bits_without_words": bits(model, heldout, words=False)} if heldout else {}
    save(model, blocks, config.tokenizers, out / "model")
    write_json(out / "metrics.json", {**metrics, **({"heldout": {"media": len(heldout), **told}} if heldout else {})})
    write_json(out / "done.json", {"config": to_mapping(config), "seconds": round(time.time() - began, 1)})
    (out / "state.pt").unlink(missing_ok=True)
    shown = "; held out: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()) if told else ""
    print(f"{config.out}: {metrics['parameters']:,} parameters, {len(blocks)} media{shown}")


def read_blocks(model: MaskedTransformer, stores: Sequence[str]) -> list[Block]:
    """Every medium of the model's modality in folders of shards, with the text of its document as its words."""
    grammar, name, found = Grammar(model.vocabulary), model.modality.spec.modality, []
    for folder in stores:
        for document in TokenStore(folder, model.vocabulary):
            if name not in (span.modality for span in document.spans):
                continue
            spans = [span for turn in grammar.parse(document.ids.tolist()) for span in turn.spans]
            words = [token for span in spans if span.modality == TEXT for token in span.codes.tolist()]
            found += [model.block(words, span.codes) for span in spans if span.modality == name]
    return found


def train(model: MaskedTransformer, blocks: Sequence[Block], config: MaskGITStageConfig) -> None:
    """Train a model in place, from where an interrupted run of the same config got to; it is left in evaluation mode.

    Raises AnyglotError for a loss that is not finite, MismatchError for the state of a run of another config.
    """
    out, device = Path(config.out), model.embedding.weight.device
    dtype = compute_dtype(config.precision, device)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, (0.9, 0.96), weight_decay=config.weight_decay)
    step, state = 0, load_state(out / "state.pt", device)
    if state is not None:
        if state["config"] != to_mapping(config):
            raise MismatchError(f"{out} holds a run of another config; give another `out`, or delete it")
        step = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    model.train()
    with TrainingLog(out, f"maskgit, {config.modality}", step) as log_file:
        while step < config.steps:
            random = np.random.default_rng([config.seed, step])
            seed_everything(int(random.integers(2**31)))  # of dropout
            chosen = [blocks[index] for index in random.integers(len(blocks), size=config.batch_size)]
            told = [wordless(block) if random.random() < config.drop_words else block for block in chosen]
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, nll, _ = masked_loss(model, told, random, config.label_smoothing)
            optimizer.param_groups[0]["lr"] = config.lr * factor(config.schedule, step, config.steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                raise AnyglotError(f"loss {float(loss.detach())}, gradient norm {float(norm)} at step {step}; lower lr")
            optimizer.step()
            step += 1
            log_file.advance(step, config.steps, f"loss {float(loss.detach()):.3f}" if log_file.watched else "")
            if step % config.log_every == 0 or step == config.steps:
                values = {"loss": float(loss.detach()), "bits": float(nll) / log(2), "grad_norm": float(norm)}
                log_file.scalars(step, config.steps, values)
            if step % config.save_every == 0 and step < config.steps:
                state = {"config": to_mapping(config), "step": step, "model": model.state_dict()}
                save_state(out / "state.pt", {**state, "optimizer": optimizer.state_dict()})
    model.eval()


def wordless(block: Block) -> Block:
    """A block that is told nothing."""
    return replace(block, words=block.words[:0])


def mask_some(block: Block, random: np.random.Generator) -> np.ndarray:
    """Which ids are masked, bool like `block.ids`: a share of cos(pi / 2 * r), r even in [0, 1), at least one."""
    count = max(1, ceil(block.ids.size * cos(pi / 2 * random.random())))
    chosen = np.zeros(block.ids.size, bool)
    chosen[random.permutation(block.ids.size)[:count]] = True
    return chosen.reshape(block.ids.shape)


def masked_loss(
    model: MaskedTransformer, blocks: Sequence[Block], random: np.random.Generator, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor, int]:
    """Cross-entropy of masked codes, a mean over all that were masked.

    Returns:
        the loss to go down, the same without label smoothing and without a gradient, in nats, and of how many codes.
    """
    masks = [mask_some(block, random) for block in blocks]
    batch = model.collate(
        [
            replace(block, ids=np.where(hidden, model.mask, block.ids))
            for block, hidden in zip(blocks, masks, strict=True)
        ]
    )
    states = model(batch)
    hidden = (batch.ids == model.mask) & batch.real
    truth = model.collate(blocks).ids
    smoothed, plain = states.new_zeros((), dtype=torch.float32), states.new_zeros((), dtype=torch.float32)
    for level, book in enumerate(model.codebooks):
        mine = hidden & (batch.levels == level)
        logits, target = model.logits(states[mine], level), truth[mine] - book.start
        smoothed = smoothed + F.cross_entropy(logits, target, reduction="sum", label_smoothing=label_smoothing)
        plain = plain + F.cross_entropy(logits.detach(), target, reduction="sum")
    count = int(hidden.sum())
    return smoothed / count, plain / count, count


@torch.no_grad()
def bits(model: MaskedTransformer, blocks: Sequence[Block], words: bool = True, seed: int = 0) -> float:
    """Bits per masked code, under a few masks of each medium as training draws them; the same ones for every model.

    words: whether the model is told them.
    """
    total, codes = 0.0, 0
    for chosen in _batches(blocks, 64):
        random = np.random.default_rng([seed, codes])
        for _ in range(MEASURED_MASKS):
            _, nll, count = masked_loss(model, chosen if words else [wordless(block) for block in chosen], random)
            total, codes = total + float(nll) * count, codes + count
    return total / codes / log(2)


def save(model: MaskedTransformer, blocks: Sequence[Block], tokenizers: dict[str, str], directory: Path) -> None:
    """Write the directory that `anyglot.inference.maskgit` loads. Its usual grid is the one most media have."""
    grid = Counter(block.ids.shape[:-1] for block in blocks).most_common(1)[0][0]
    with atomic_directory(directory) as folder:
        model.save(folder, grid)
        model.vocabulary.save(folder)
        for name in (TEXT, model.modality.spec.modality):
            shutil.copytree(tokenizers[name], folder / "tokenizers" / name)


def _batches(blocks: Sequence[Block], size: int) -> Iterator[Sequence[Block]]:
    return (blocks[start : start + size] for start in range(0, len(blocks), size))
