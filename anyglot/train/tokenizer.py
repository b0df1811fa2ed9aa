"""Train the tokenizer of any modality: an autoencoder, its quantizer and, where its objective has one, a discriminator.

    anyglot train configs/image/vqgan.yaml data.files=[images.jsonl] out=runs/image
    torchrun --standalone --nproc-per-node 2 -m anyglot train ...

Batch k, and every random choice of step k, is a function of (seed, k, rank): a run that was killed and resumed is
bit for bit the run that was not. `out` gets `log.jsonl`, `tensorboard/`, `health.png` (how evenly codes are used) and
`state.pt` while it runs, then `tokenizer/` and `done.json`.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor, nn

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.tokenizers.base import load_directory, objective_module, tokenizer_class
from anyglot.tokenizers.quantizers.health import Health
from anyglot.train.device import compute_dtype, local_device
from anyglot.train.health import health_scalars, show_health
from anyglot.train.log import TrainingLog
from anyglot.train.media import MediaCorpus, find_parts
from anyglot.train.ranks import Ranks, ranks
from anyglot.train.schedule import ScheduleConfig, factor, steps_within
from anyglot.train.state import load_state, save_state, seed_everything

logger = logging.getLogger(__name__)

FIRST_ESTIMATE = 16  # steps after which a budget in minutes is first turned into a number of steps
UNKNOWN = 10**9  # steps of a budgeted run before that


@dataclass
class DataConfig:
    """files: documents (JSON lines and so on). split: trained on. heldout: shown in TensorBoard, never trained on.
    cache_mb: decoded media kept in memory."""

    files: list[str] = MISSING
    split: str = "train"
    heldout: str = "heldout"
    cache_mb: int = 2048


@dataclass
class OptimizerConfig:
    """AdamW. clip: largest gradient norm."""

    lr: float = 2e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    clip: float = 1.0


@dataclass
class TokenizerConfig:
    """modality: or the module of anyglot.tokenizers that implements it, where that has another name.
    model, objective: fields of the modality's CONFIG dataclasses. start: directory of a tokenizer of the same shape
    whose weights training begins with, "" for random ones. batch_size: over all ranks.
    steps: of training, unless minutes > 0: then as many as fit. ema: decay of the averaged weights that are kept in
    the end, 0 for none. log_every, save_every, sample_every: in steps. samples: held-out media shown."""

    stage: str = "tokenizer"
    modality: str = MISSING
    out: str = MISSING
    start: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    model: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-4, betas=[0.5, 0.9]))
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch_size: int = 64
    steps: int = 100000
    minutes: float = 0.0
    ema: float = 0.999
    seed: int = 0
    precision: str = "auto"
    log_every: int = 20
    save_every: int = 500
    sample_every: int = 500
    samples: int = 8

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.save_every, self.sample_every) < 1:
            raise ConfigError("steps, batch_size, log_every, save_every and sample_every must be 1 or more")
        if not 0 <= self.ema < 1 or self.minutes < 0:
            raise ConfigError("ema must lie in [0, 1) and minutes must not be negative")


def run(mapping: dict[str, Any], where: str) -> None:
    """Train a tokenizer, or go on with one, until `<out>/tokenizer` is there. Raises AnyglotError."""
    config = typed(TokenizerConfig, mapping, where)
    if (Path(config.out) / "done.json").exists():
        logger.warning("%s is finished; delete it to train again", config.out)
        return
    with ranks() as world:
        train(config, where, world)


def train(config: TokenizerConfig, where: str, world: Ranks) -> None:
    """The whole run of one rank."""
    began = time.perf_counter()
    device = local_device()
    dtype = compute_dtype(config.precision, device)
    out = Path(config.out)
    if config.batch_size % world.size:
        raise ConfigError(f"{where}: batch_size {config.batch_size} is not a multiple of the {world.size} processes")

    # The players: tokenizer and objective (with its discriminator), each with an optimizer of its own.
    seed_everything(config.seed)
    kind = tokenizer_class(config.modality)
    goal = objective_module(config.modality)
    model = kind(typed(kind.config_class, config.model, f"{where}: model")).to(device).train()
    if config.start:
        _start_from(config.start, model)
    levels = model.quantizer.levels
    objective_config = typed(goal.CONFIG, config.objective, f"{where}: objective")
    objective = goal.OBJECTIVE(objective_config).to(device).train()
    trained = [list(model.parameters()), list(objective.parameters())]
    settings = [config.optimizer, config.discriminator]
    optimizers = [_adamw(p, s, device) if p else None for p, s in zip(trained, settings, strict=True)]
    average = [parameter.detach().clone() for parameter in trained[0]] if config.ema else []

    # The data: batch k by a thread, one step ahead. `crop` works in NumPy: a torch operation in a second thread starts
    # a second team of spinning OpenMP threads, and made steps on two cores 1.6 times slower.
    corpus = MediaCorpus(
        find_parts(config.data.files, kind.modality, config.data.split), model, config.data.cache_mb * 2**20
    )
    shown = _heldout(config, model) or [corpus[index] for index in range(min(config.samples, len(corpus)))]

    def batch_of(step: int) -> Any:  # a tensor, or what else has `to(device)`
        generator = np.random.default_rng([config.seed, step, world.rank])
        return goal.crop(corpus, objective_config, generator, config.batch_size // world.size)

    # Where an earlier, interrupted run of the same config got to.
    step, steps, spent = 0, UNKNOWN if config.minutes else config.steps, 0.0
    state = load_state(out / "state.pt", device)
    if state is None:
        model.begin(corpus)
    else:
        _same_config(config, state["config"], out)
        step, steps, spent = state["step"], state["steps"], state["seconds"]
        model.load_state_dict(state["model"])
        objective.load_state_dict(state["objective"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(saved)
        average = state["average"]

    def seconds() -> float:
        return spent + time.perf_counter() - began

    def save() -> None:
        saved = [None if optimizer is None else optimizer.state_dict() for optimizer in optimizers]
        state = {"config": to_mapping(config), "step": step, "steps": steps, "seconds": seconds(), "average": average}
        state.update(model=model.state_dict(), objective=objective.state_dict(), optimizers=saved)
        if world.rank == 0:
            save_state(out / "state.pt", state)

    history: list[dict[str, Tensor]] = []
    health, health_drawn = Health(levels), Health(levels)  # of the codes since the last log line, the last plot
    last_estimate = (step, seconds())
    with (
        ThreadPoolExecutor(1) as loader,
        TrainingLog(out, f"{config.modality} tokenizer", step, enabled=world.rank == 0) as log,
    ):
        coming = loader.submit(batch_of, step)
        while step < steps:
            batch = coming.result().to(device, non_blocking=True)
            coming = loader.submit(batch_of, step + 1)
            seed_everything(int(np.random.SeedSequence([config.seed, step, world.rank]).generate_state(1)[0]))
            for optimizer, setting in zip(optimizers, settings, strict=True):
                if optimizer is not None:
                    optimizer.param_groups[0]["lr"] = setting.lr * factor(config.schedule, step, steps)

            # The tokenizer's move; autograd leaves the discriminator's gradients alone.
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, terms, reconstruction = objective.generator_loss(model, batch, step)
            terms = {"loss": loss.detach(), **terms}
            terms["grad_norm"] = _update(loss, optimizers[0], trained[0], config.optimizer.clip, world)
            for name, value in reconstruction.quantized.stats.items():
                if not name.startswith(("usage", "perplexity")):  # those of one batch; `health` has them of many
                    terms[f"quantizer/{name}"] = value
            for count in (health, health_drawn):
                count.update(reconstruction.quantized.codes)

            # The discriminator's move.
            if optimizers[1] is not None:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    answer = objective.discriminator_loss(batch, reconstruction, step)
                if answer is not None:
                    terms.update(answer[1])
                    _update(answer[0], optimizers[1], trained[1], config.discriminator.clip, world)

            if average:
                decay = min(config.ema, (1 + step) / (10 + step))  # the first averages must forget the start
                torch._foreach_lerp_(average, [p.detach() for p in trained[0]], 1 - decay)
            step += 1
            history.append(terms)

            if config.minutes and _estimates(step, steps):
                each = (seconds() - last_estimate[1]) / (step - last_estimate[0])
                steps = world.agree(steps_within(config.minutes, seconds(), step, each))
                save()  # so that a resumed run keeps this decision
                last_estimate = (step, seconds())
            log.advance(step, steps, f"loss {float(terms['loss']):.3f}" if log.watched else "")
            if step % config.log_every == 0 or step == steps:
                values = {**_means(history), **health_scalars(health.over_ranks())}
                history.clear()
                health = Health(levels)
                _refuse_nan(values, step, out)
                log.scalars(step, steps, {**values, "lr": optimizers[0].param_groups[0]["lr"]})  # type: ignore[union-attr]
            if step % config.save_every == 0 and step < steps:
                _refuse_nan(_means([terms]), step, out)
                save()
            if step % config.sample_every == 0 or step == steps:
                show_health(health_drawn.over_ranks(), log, step, out / "health.png")
                health_drawn = Health(levels)
                if world.rank == 0:
                    model.eval()
                    goal.show(log, step, model, shown, model.decode(model.encode(shown)))
                    model.train()
        coming.cancel()

    _finish(config, out, model, corpus, trained[0], average, step, seconds(), values, world)


def _finish(
    config: TokenizerConfig,
    out: Path,
    model: nn.Module,
    corpus: MediaCorpus,
    parameters: list[nn.Parameter],
    average: list[Tensor],
    step: int,
    seconds: float,
    values: dict[str, float],
    world: Ranks,
) -> None:
    """Keep the averaged weights as a tokenizer directory, and note that the run is done."""
    if world.rank:
        return
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=False):
            parameter.copy_(mean)
    tokenizer: Any = model.eval()
    if not tokenizer.quantizer.ready:
        logger.warning("%s: the run was too short to start every codebook; its codes mean little yet", out)
    with torch.no_grad():
        tokenizer.finish(corpus)
    tokenizer.save_pretrained(out / "tokenizer")
    done = {"steps": step, "seconds": round(seconds, 1), "fingerprint": tokenizer.fingerprint, "last": values}
    write_json(out / "done.json", {**done, "config": to_mapping(config)})
    (out / "state.pt").unlink(missing_ok=True)


def _start_from(directory: str, model: nn.Module) -> None:
    """Take the weights of a trained tokenizer. Raises ConfigError if its shape is another."""
    try:
        model.load_state_dict(load_directory(directory)[1])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ConfigError(f"start: {directory} holds a tokenizer of another shape ({reason})") from error


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(parameters, config.lr, betas, weight_decay=config.weight_decay, fused=True)


def _update(
    loss: Tensor, optimizer: torch.optim.Optimizer | None, parameters: list[nn.Parameter], clip: float, world: Ranks
) -> Tensor:
    """One step down `loss`, averaged over ranks; returns the gradient norm before clipping."""
    assert optimizer is not None
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    world.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return norm.detach()


def _estimates(step: int, steps: int) -> bool:
    """Whether to fix the number of steps anew: at 16, 24, 32, 48, 64, 96 ... up to two thirds of the run.

    More than once, because the machine may be busy at first, and a step grows dearer when the discriminator joins.
    """
    octave = 1 << (step.bit_length() - 1)
    return step >= FIRST_ESTIMATE and step % (octave // 2) == 0 and (steps == UNKNOWN or 3 * step <= 2 * steps)


def _heldout(config: TokenizerConfig, model: Any) -> list[np.ndarray]:
    try:
        parts = find_parts(config.data.files, model.modality, config.data.heldout)
    except AnyglotError:  # no held-out documents: training ones are shown
        return []
    media = MediaCorpus(parts, model, cache_bytes=0)
    return [media[index] for index in range(min(config.samples, len(media)))]


def _means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    names = dict.fromkeys(name for terms in history for name in terms)
    return {n: float(torch.stack([t[n].float() for t in history if n in t]).mean()) for n in names}


def _refuse_nan(values: dict[str, float], step: int, out: Path) -> None:
    """Raise rather than save or go on with broken weights."""
    if not (np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])):
        raise AnyglotError(
            f"loss {values['loss']} or gradient norm {values['grad_norm']} at step {step}; lower optimizer.lr and run "
            f"again: {out / 'state.pt'} holds the last good state"
        )


def _same_config(config: TokenizerConfig, saved: dict[str, Any], out: Path) -> None:
    """Raise ConfigError if an interrupted run in `out` was another one; how it is logged may change."""
    free = {"minutes", "log_every", "save_every", "sample_every", "samples"}
    now = to_mapping(config)
    changed = [key for key in now if key not in free and now[key] != saved.get(key)]
    if changed:
        raise ConfigError(
            f"{out} holds an unfinished run with another {changed[0]!r}; choose another out, or delete it"
        )
