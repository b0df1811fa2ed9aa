"""Pretraining: one loop over a DeepSpeed engine. The same code runs in one process, under `deepspeed` or `torchrun`.

Batch k is a pure function of the data and k, and random draws are functions of (seed, step): a run that is killed
and resumed is the run that was never killed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from anyglot.config import to_mapping, typed
from anyglot.data.batches import BatchesConfig, PackedBatch
from anyglot.data.mixture import Mixture
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.depth import riders_after
from anyglot.lm.model import LanguageModel, ModelConfig, flops_per_token
from anyglot.lm.vocabulary import TEXT
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train import checkpoint as checkpoints
from anyglot.train.attention import choose_attention
from anyglot.train.checkpoint import RunState
from anyglot.train.checkpoint_writer import CheckpointWriter
from anyglot.train.device import compute_dtype, local_device, matmul_flops
from anyglot.train.engine import EngineConfig, build_engine, filled_by_first_rank, loss_scale, process_group
from anyglot.train.export import check_tokenizers, export
from anyglot.train.failed import NotFiniteError, keep
from anyglot.train.finished import has_steps
from anyglot.train.levels import trained_depth
from anyglot.train.log import TrainingLog
from anyglot.train.lora import LoraConfig
from anyglot.train.meter import GroupSums, Meter
from anyglot.train.objective import NEXT_TOKENS, NextTokens
from anyglot.train.optimizers import set_learning_rates
from anyglot.train.samples import show_samples
from anyglot.train.schedule import ScheduleConfig, factor, steps_within
from anyglot.train.sequence import join, parts
from anyglot.train.trainable import NewRowsConfig, build_trainable
from anyglot.train.weighting import LossWeights

T = TypeVar("T")
WARM, CALIBRATED = 5, 20  # a time budget becomes a number of steps by the speed between these two


@dataclass
class PretrainConfig:
    """A pretraining run.

    out: folder of the run; `<out>/model` is its result. data: the training mixture.
    heldout: name -> token store, evaluated every `evaluate_every` steps on `evaluate_batches` batches (0: all).
    tokenizers: "text" or modality -> directory; they are copied into the result, which needs them to read and write.
    new_rows: rows of ids that are parameters of their own; begun and added where `model.pretrained` lacks them.
    lora: adapters that are trained instead of the weights (`lora.py`).
    freeze: patterns of parameter names that are not trained, `!pattern` takes back (`trainable.py`).
    codebook_embeddings: begin the embeddings of new codes from their tokenizers' codebook vectors, so that like codes
    begin alike. modality_weights: loss weight of a modality's codes, of one of their levels ("speech.1") or of the ids
    around them ("structure"), 1 where not named. normalise: what the loss is a mean of: "token", "sample" or "modality"
    (`weighting.py`).
    samples: texts that the model is asked to draw, say, ... at each evaluation, for TensorBoard (not at ZeRO stage 3).
    micro_rows: rows that a process computes at once, 0 for all of its share.
    attention: what computes it: "sdpa", "flex", "flash", or "auto" for flash where it works, else sdpa.
    sequence_parallel: how many processes share a row, each with a part of its places; 1 for whole rows.
    steps: how many, unless data.stores have epochs, or minutes > 0 gives a time budget; then they are fixed once the
    speed has been measured.
    save_async: training goes on while a checkpoint is written, from a copy in the machine's memory. keep: how many of
    the newest checkpoints stay.
    """

    stage: str
    out: str
    data: BatchesConfig
    heldout: dict[str, str] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    new_rows: NewRowsConfig = field(default_factory=NewRowsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: list[str] = field(default_factory=list)
    codebook_embeddings: bool = True
    modality_weights: dict[str, float] = field(default_factory=dict)
    normalise: str = "token"
    samples: list[str] = field(default_factory=list)
    z_loss: float = 1e-4
    micro_rows: int = 0
    activation_checkpointing: bool = False
    attention: str = "auto"
    sequence_parallel: int = 1
    precision: str = "auto"
    steps: int = 1000
    minutes: float = 0.0
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 200
    evaluate_batches: int = 8
    save_every: int = 200
    save_async: bool = True
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("log_every", "evaluate_every", "save_every", "keep", "sequence_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.engine.new_rows_learning_rate and not self.new_rows.after:
            raise ConfigError("engine.new_rows_learning_rate is for the rows of new_rows; set new_rows.after")
        if self.minutes and any(share.epochs for share in self.data.stores.values()):
            raise ConfigError("minutes and data.stores.*.epochs both say how long the run is; set one of them")
        if self.normalise == "sample" and self.sequence_parallel > 1:
            raise ConfigError("normalise: sample takes documents in one piece; set sequence_parallel=1")
        if self.samples and (self.engine.zero_stage == 3 or TEXT not in self.tokenizers):
            raise ConfigError(
                "samples needs tokenizers.text, and engine.zero_stage below 3, which leaves weights whole"
            )

    @property
    def own_steps(self) -> int:
        """`steps` where it says how long the run is, else 0."""
        return 0 if self.minutes or any(share.epochs for share in self.data.stores.values()) else self.steps


def run(mapping: dict[str, Any], where: str) -> None:
    """Train as the config says, going on where an earlier run of it stopped, or ended with fewer `steps`."""
    config = typed(PretrainConfig, mapping, where)
    if has_steps(Path(config.out), config.own_steps):
        return
    with process_group(config.engine.timeout_minutes) as (rank, world):
        pretrain(config, rank, world)


def pretrain(config: PretrainConfig, rank: int, world: int, objective: NextTokens = NEXT_TOKENS) -> None:
    """One run, from its newest checkpoint or from the start, to its exported model."""
    out, device = Path(config.out), local_device()
    dtype = compute_dtype(config.precision, device)
    batches = objective.open(config.data)
    vocabulary = batches.mixture.vocabulary
    heldout = {name: TokenStore(path, vocabulary) for name, path in config.heldout.items()}
    check_tokenizers(vocabulary, config.tokenizers)

    # ------------------------------------------------------------------ where an earlier run stopped
    stage = config.engine.zero_stage
    found = by_rank_0(lambda: checkpoints.newest(out / "checkpoints", world, stage))
    state = found.state if found else RunState(fingerprint=batches.fingerprint)
    if state.fingerprint != batches.fingerprint:
        raise ConfigError(
            f"{config.out}: its checkpoint was trained on data {state.fingerprint}, the config now gives "
            f"{batches.fingerprint}; give this run another `out`, or delete the old one"
        )
    if not config.minutes:
        state.steps = batches.steps or config.steps
    batches.mixture.require(state.steps * config.data.rows)

    # ------------------------------------------------------------------ model and engine
    media = {name: load_tokenizer(path) for name, path in config.tokenizers.items() if name != TEXT}
    starts = config.codebook_embeddings and not found
    codebooks = {name: tokenizer.codebooks() for name, tokenizer in media.items()} if starts else {}
    with filled_by_first_rank(config.engine, rank) as filled:
        model = build_trainable(
            config.model, vocabulary, config.new_rows, config.freeze, codebooks, config.seed, config.lora, filled
        )
    shared = join(config.sequence_parallel, model.config, config.data.length)
    attention, chosen = choose_attention(config.attention, model, device, dtype, shared)
    depth = trained_depth(config, vocabulary, model.config.hidden_size)
    language_model = LanguageModel(model, config.z_loss, attention, depth, riders_after(vocabulary))
    if config.activation_checkpointing:
        language_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    flops = flops_per_token(language_model.model, config.data.length)
    micro_rows = _micro_rows(config, world // config.sequence_parallel)
    engine = build_engine(language_model, config.engine, micro_rows, dtype, bool(found and found.universal))
    objective.prepare(engine, config, list(heldout.values()), micro_rows, rank, world)
    if found:
        checkpoints.load(engine, found)
    if config.samples and rank == 0:
        text = TextTokenizer.from_pretrained(config.tokenizers[TEXT])
        sampler = Anyglot(engine.module.model, vocabulary, text, media, depth=engine.module.depth)
        engine.train()
    loss_weights = LossWeights(vocabulary, config.modality_weights, config.normalise, device)
    meter = Meter(vocabulary, flops, matmul_flops(dtype, device), device)
    if rank == 0:
        write_json(out / "config.json", to_mapping(config))
        Console(stderr=True).print(batches.mixture.tree(state.steps * config.data.rows))

    # ------------------------------------------------------------------ the loop
    neighbours = config.sequence_parallel  # they have the same rows
    stream = parts(batches.iterate(state.step, rank // neighbours, world // neighbours), shared)
    began = time.monotonic() - state.seconds
    with (
        TrainingLog(out, "language model", step=state.step, enabled=rank == 0) as log,
        CheckpointWriter(out / "checkpoints", config.keep, config.save_async, config.engine.timeout_minutes) as writer,
    ):
        log.note(state.step, state.steps, "attention", chosen)

        def tell_heldout() -> None:
            for name, store in heldout.items():
                measured = evaluate(engine, store, config, micro_rows, rank, world, objective)
                log.scalars(state.step, state.steps, {f"heldout/{name}/{key}": v for key, v in measured.items()})

        if config.model.pretrained and state.step == 0:  # what it knew, to compare with
            tell_heldout()
        while not state.steps or state.step < state.steps:
            share = factor(config.schedule, state.step, state.steps or 10**9)
            set_learning_rates(engine.optimizer, config.engine, share)
            language_model.loss.measures_rms = (state.step + 1) % config.log_every == 0 or state.step + 1 == state.steps
            torch.manual_seed((config.seed * 1_000_003 + state.step) * 4096 + rank)
            try:
                train_step(engine, next(stream), micro_rows, loss_weights, meter, state.step, objective)
            except NotFiniteError as error:
                raise keep(error, out, state.step, vocabulary) from error

            # ---------------------------------------------------------- what is told, measured and kept
            writer.check()
            state.step += 1
            state.seconds = time.monotonic() - began
            _fix_steps(config, state, batches.mixture)
            last = state.step == state.steps
            log.advance(state.step, state.steps)
            if state.step % config.log_every == 0 or last:
                measured = meter.scalars() | objective.scalars()
                measured["learning_rate"] = config.engine.learning_rate * share
                if config.engine.optimizer == "muon":
                    del measured["gradient_norm"]  # ZeRO would tell that of Muon's steps
                if depth is not None:
                    del measured["utilisation"]  # how many positions a row takes differs
                log.scalars(state.step, state.steps, measured)
            if state.step % config.evaluate_every == 0 or last:
                tell_heldout()
                if config.samples and rank == 0:
                    show_samples(log, state.step, sampler, config.samples)
                    engine.train()
            if state.step % config.save_every == 0 or last:
                writer.save(engine, state)

    # ------------------------------------------------------------------ the result
    export(engine, out / "model", vocabulary, config.tokenizers)
    if rank == 0:
        write_json(out / "done.json", {"steps": state.steps, "seconds": round(state.seconds, 1), "world": world})


def train_step(
    engine: Any,
    batch: PackedBatch,
    micro_rows: int,
    loss_weights: LossWeights,
    meter: Meter,
    step: int,
    objective: NextTokens = NEXT_TOKENS,
) -> None:
    """One optimiser step on this rank's share of a global batch; its loss is a weighted mean over the global batch.

    Raises NotFiniteError if the loss or the gradient is not finite: DeepSpeed would skip the step in silence, or at
    ZeRO stage 0 spoil the weights.
    """
    meter.begin()
    tensors = tensors_of(batch, engine.device)
    weights, divisor = loss_weights(tensors["labels"], tensors["weights"], tensors["document_ids"])
    scale = loss_scale(engine) / divisor
    total, losses = torch.zeros((), dtype=torch.float64, device=engine.device), []
    for micro in micro_batches(tensors | {"weighted": weights}, micro_rows):
        loss = objective.loss(engine, micro)
        engine.backward(loss.total * scale, scale_wrt_gas=False)
        total += loss.total.detach()
        losses.append(loss.nll.view_as(micro["labels"]))
        meter.add(micro["labels"], loss, micro["weighted"])
    dist.all_reduce(total)
    mean = total.item() / divisor
    if not isfinite(mean):
        raise NotFiniteError(f"step {step}: the loss is {mean}; lower engine.learning_rate", tensors, torch.cat(losses))
    engine.step()
    gradient_norm = float(engine.get_global_grad_norm() or 0.0)
    if not isfinite(gradient_norm):
        message = f"step {step}: the gradient is not finite; lower engine.learning_rate"
        raise NotFiniteError(message, tensors, torch.cat(losses))
    meter.step(mean, gradient_norm, tensors["document_ids"])


@torch.no_grad()
def evaluate(
    engine: Any,
    store: TokenStore,
    config: PretrainConfig,
    micro_rows: int,
    rank: int,
    world: int,
    objective: NextTokens = NEXT_TOKENS,
) -> dict[str, float]:
    """Bits per id of each group of ids, over a store's first `evaluate_batches` batches. Every rank calls it."""
    objective = objective.anew()
    engine.eval()
    sums = GroupSums(store.vocabulary, engine.device)
    place = rank // config.sequence_parallel, world // config.sequence_parallel
    batches = objective.single_pass(store, config.data, *place, config.evaluate_batches)
    for batch in parts(batches, engine.module.attention.shared):
        for micro in micro_batches(tensors_of(batch, engine.device), micro_rows):
            loss = objective.loss(engine, micro | {"weighted": micro["weights"]})
            sums.add(micro["labels"], loss.nll, micro["weights"])
    engine.train()
    return objective.scalars() | sums.bits()


def tensors_of(batch: PackedBatch, device: torch.device) -> dict[str, Tensor]:
    """The arrays of a batch by their names."""
    return {field.name: torch.from_numpy(getattr(batch, field.name)).to(device) for field in fields(batch)}


def micro_batches(tensors: dict[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    """A batch in pieces of at most `rows` rows."""
    for start in range(0, len(tensors["labels"]), rows):
        yield {name: tensor[start : start + rows] for name, tensor in tensors.items()}


def _micro_rows(config: PretrainConfig, world: int) -> int:
    share = -(-config.data.rows // world)
    return min(config.micro_rows or share, share)


def _fix_steps(config: PretrainConfig, state: RunState, mixture: Mixture) -> None:
    """Turn the time budget into a number of steps, the same on all ranks, once the speed is known."""
    if state.steps:
        return
    if state.step == WARM:
        state.warm_seconds = state.seconds
    if state.step == CALIBRATED:
        per_step = (state.seconds - state.warm_seconds) / (CALIBRATED - WARM)
        state.steps = by_rank_0(lambda: steps_within(config.minutes, state.seconds, state.step, per_step))
        mixture.require(state.steps * config.data.rows)


def by_rank_0(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank; what it raises, too."""
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            box = [compute()]
        except AnyglotError as error:
            box = [error]
    dist.broadcast_object_list(box)
    if isinstance(box[0], AnyglotError):
        raise box[0]
    return box[0]
