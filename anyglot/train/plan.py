"""`anyglot plan`: whether a run fits into the memory of its GPUs, what it computes, how long it takes, what to set.

Nothing is allocated, and neither the data nor a GPU need be there.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from anyglot.config import load_mapping, typed
from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.footprint import Footprint, Setting, offloads
from anyglot.train.memory import Memory, checkpoint_bytes
from anyglot.train.pretrain import PretrainConfig, _micro_rows

GIB = 2**30
GPUS = {  # name -> GiB as the driver tells them, and the makers' dense TFLOP/s in bf16 and in fp32
    "a10": (22.5, 125, 31), "a100-40": (40, 312, 19.5), "a100": (80, 312, 19.5), "b200": (179, 2250, 80),
    "h100": (79.6, 989, 67), "h200": (140.4, 989, 67), "l4": (22.5, 121, 30), "l40s": (45, 362, 92),
    "rtx3090": (24, 71, 36), "rtx4090": (24, 165, 83),
}  # fmt: skip
CONTEXT = 1.0 * GIB  # CUDA's context, kernels, and NCCL's buffers
FRAGMENTS = 0.06  # of what is allocated: what the allocator holds between tensors


@dataclass(frozen=True)
class Plan:
    """What `anyglot plan` tells. Bytes of one rank; FLOPs of the model, without what checkpointing computes again."""

    config: str
    gpus: int
    gpu: str
    memory: float
    utilisation: float
    vocabulary: int
    parameters: int
    trained: int
    optimizer: str
    dtype: str
    rows: int
    length: int
    setting: Setting
    by_stage: dict[int, Memory]
    activations: dict[str, float]
    fits: bool
    advice: list[str]
    gpus_needed: int
    building: float
    saving: float
    flops_per_token: float
    tokens_per_second: float
    step_seconds: float
    traffic: float
    tokens: float
    days: float


def show(
    name: str,
    overrides: Sequence[str],
    gpus: int,
    gpu: str,
    memory: float,
    vocabulary: int,
    tokens: float,
    utilisation: float,
    as_json: bool,
) -> None:
    """Print the plan of a config. memory: GiB of a GPU, 0 for what `gpu` has. Others: see `make_plan`."""
    mapping = load_mapping(name, overrides)
    if mapping.get("stage") != "pretrain":
        raise ConfigError(f"{name}: its stage is {mapping.get('stage')!r}; only runs of stage pretrain can be planned")
    config = typed(PretrainConfig, mapping, name)
    if gpu not in GPUS:
        raise ConfigError(f"--gpu {gpu}: not one of {', '.join(GPUS)}; take the nearest, and give its --memory")
    plan = make_plan(name, config, gpus, gpu, memory or GPUS[gpu][0], vocabulary, tokens, utilisation)
    if as_json:
        print(json.dumps(asdict(plan), indent=1))
    else:
        _print(plan)


def make_plan(
    name: str,
    config: PretrainConfig,
    gpus: int,
    gpu: str,
    memory: float,
    vocabulary: int = 0,
    tokens: float = 0,
    utilisation: float = 0.4,
) -> Plan:
    """The plan of a run.

    Args:
        gpus: processes, one a GPU. memory: GiB of each.
        vocabulary: number of ids, 0 for that of the first token store, which then has to be there.
        tokens: to train on, 0 for what the config's steps come to.
        utilisation: share of the GPU's peak that is reached, recomputed layers included.
    Raises:
        ConfigError: no vocabulary to be found, or a utilisation that is no share.
    """
    if not 0 < utilisation <= 1:
        raise ConfigError(f"--utilisation is {utilisation}; it is a share of the peak, above 0 and at most 1")
    if config.sequence_parallel > 1:
        raise ConfigError(
            f"plan does not know shared rows; plan data.length={config.data.length // config.sequence_parallel} with "
            "sequence_parallel=1, which takes as much for each rank"
        )
    run = Footprint(config, vocabulary or _vocabulary_size(config))
    own = Setting(
        config.engine.zero_stage,
        _micro_rows(config, gpus),
        config.activation_checkpointing,
        offloads(config.engine.deepspeed.get("zero_optimization", {})),
    )
    by_stage = {stage: run.memory(replace(own, stage=stage), gpus) for stage in range(4)}
    fits = need(by_stage[own.stage]) <= memory * GIB
    found, gpus_needed = (own, gpus) if fits else _advise(run, own, gpus, memory * GIB)
    share = -(-config.data.rows // gpus)  # what does not divide is filled up with padding
    places = share * gpus * config.data.length
    recomputed = 4 / 3 if config.activation_checkpointing else 1.0
    peak = GPUS[gpu][1 if run.dtype == torch.bfloat16 else 2] * 1e12
    per_second = gpus * peak * utilisation / (run.flops * recomputed)
    asked = tokens or float(config.steps * config.data.rows * config.data.length)
    sent = 3 * run.job(gpus).element * run.job(gpus).trained if gpus > 1 else 0
    return Plan(
        config=name,
        gpus=gpus,
        gpu=gpu,
        memory=memory * GIB,
        utilisation=utilisation,
        vocabulary=run.vocabulary,
        parameters=run.job(gpus).trained + run.job(gpus).frozen,
        trained=run.job(gpus).trained,
        optimizer=config.engine.optimizer,
        dtype=str(run.dtype).removeprefix("torch."),
        rows=config.data.rows,
        length=config.data.length,
        setting=own,
        by_stage=by_stage,
        activations={
            "without": run.activations(own.micro_rows, False),
            "with": run.activations(own.micro_rows, True),
        },
        fits=fits,
        advice=found.overrides(own),
        gpus_needed=gpus_needed,
        building=4.0 * (run.job(gpus).trained + run.job(gpus).frozen),
        saving=checkpoint_bytes(run.job(gpus), own.stage) if config.save_async else 0.0,
        flops_per_token=run.flops,
        tokens_per_second=per_second,
        step_seconds=places / per_second,
        traffic=sent * (-(-share // own.micro_rows) if own.stage >= 2 else 1),
        tokens=asked,
        days=asked / (config.data.rows * config.data.length) * places / per_second / 86400,
    )


def need(memory: Memory) -> float:
    """Bytes that a GPU must have for a rank's `memory`."""
    return memory.total * (1 + FRAGMENTS) + CONTEXT


def _vocabulary_size(config: PretrainConfig) -> int:
    store = Path(next(iter(config.data.stores.values())).path)
    for folder in (store, store.parent):  # where `anyglot tokenize` leaves it
        if (folder / "vocabulary.json").is_file():
            return Vocabulary.load(folder).size
    raise ConfigError(f"data.stores: {store} has no vocabulary yet; give --vocabulary and the number of ids")


def _advise(run: Footprint, own: Setting, gpus: int, memory: float) -> tuple[Setting, int]:
    """The first setting that fits, on as few times twice the GPUs as will do, or 0 GPUs: there are not enough rows."""
    while True:
        least = replace(own, micro_rows=min(own.micro_rows, _micro_rows(run.config, gpus)))
        for setting in _candidates(least):
            if need(run.memory(setting, gpus)) <= memory:
                return setting, gpus
        gpus *= 2
        if gpus > run.config.data.rows:
            return own, 0


def _candidates(own: Setting) -> Iterator[Setting]:
    """Settings to try, the cheapest first: smaller shares, smaller micro-batches, computing twice, offloading."""
    for offload in sorted({own.offload, True}):
        for checkpointing in sorted({own.checkpointing, True}):
            rows = own.micro_rows
            while rows:
                for stage in range(max(own.stage, 1 if offload else 0), 4):
                    yield Setting(stage, rows, checkpointing, offload)
                rows //= 2


def _print(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    console, own = Console(highlight=False, soft_wrap=True), plan.setting
    frozen = f", {plan.trained / 1e6:,.1f} M of them trained" if plan.trained != plan.parameters else ""
    console.print(
        f"{plan.config}: {plan.parameters / 1e6:,.1f} M weights{frozen}, {plan.vocabulary:,} ids, {plan.dtype}"
    )
    share = -(-plan.rows // plan.gpus)
    console.print(
        f"{plan.rows} rows of {plan.length:,} tokens a step over {plan.gpus} GPUs of {plan.memory / GIB:g} GiB: "
        f"{-(-share // own.micro_rows)} x {own.micro_rows} rows each, "
        f"{'with' if own.checkpointing else 'without'} activation checkpointing"
    )
    parts = ("weights", "gradients", "optimizer", "activations", "buffers")
    table = Table("ZeRO", *parts, "in all", "fits", "host", title="GiB of a rank at its fullest", box=None)
    for stage, memory in plan.by_stage.items():
        figures = [*(getattr(memory, part) for part in parts), need(memory)]
        fits = "yes" if need(memory) <= plan.memory else "no"
        host = f"{memory.host / GIB:.2f}" if memory.host else ""
        style = "bold" if stage == own.stage else ""
        table.add_row(str(stage), *(f"{figure / GIB:.2f}" for figure in figures), fits, host, style=style)
    console.print(table)
    console.print(
        f"in all: {FRAGMENTS:.0%} more for fragments, and {CONTEXT / GIB:g} GiB for CUDA's context. Activations of "
        f"{own.micro_rows} rows beside gradients: {plan.activations['without'] / GIB:.2f} GiB, with checkpointing "
        f"{plan.activations['with'] / GIB:.2f} GiB"
    )
    who = "the first process" if own.stage == 3 else "each process"
    console.print(f"while the model is built, {who} holds {plan.building / GIB:.1f} GiB in its machine's memory")
    if plan.saving:
        console.print(f"from its first checkpoint on, a copy of it stays there: {plan.saving / GIB:.1f} GiB a process")
    console.print(
        f"{plan.flops_per_token / 1e9:,.2f} GFLOP a token; at {plan.utilisation:.0%} of a {plan.gpu}'s peak "
        f"{plan.tokens_per_second:,.0f} tokens a second, {plan.step_seconds:,.2f} s a step, in which a rank sends and "
        f"receives {plan.traffic / GIB:,.1f} GiB"
    )
    console.print(f"{plan.tokens / 1e9:,.2f} billion tokens take {plan.days:,.2f} days")
    if plan.fits:
        lowest = min(stage for stage, memory in plan.by_stage.items() if need(memory) <= plan.memory)
        less = f"; ZeRO {lowest} fits too" if lowest < own.stage else ""
        console.print(f"it fits{less}", style="green")
    elif plan.gpus_needed == plan.gpus:
        console.print(f"it does not fit; set {' '.join(plan.advice)}", style="yellow")
    elif plan.gpus_needed:
        words = f", with {' '.join(plan.advice)}" if plan.advice else ""
        console.print(f"it does not fit; it needs {plan.gpus_needed} such GPUs{words}", style="red")
    else:
        console.print(
            "it does not fit on as many such GPUs as it has rows: lower data.length, or take larger ones", style="red"
        )
