"""DeepSpeed, called directly: process group and engine. Its traps are answered here and nowhere else."""

import difflib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from anyglot.errors import AnyglotError, ConfigError
from anyglot.train.device import local_device
from anyglot.train.optimizers import build_optimizer

EXTRA = (  # DeepSpeed's settings that may be given; it ignores a mistyped one in silence
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "communication_data_type",
    "data_types", "checkpoint", "aio", "compile", "comms_logger", "flops_profiler", "wall_clock_breakdown",
    "memory_breakdown", "steps_per_print", "dump_state", "disable_python_gc", "log_level",
)  # fmt: skip
OURS = {  # DeepSpeed's name -> ours, for what the loop or the config decides itself
    "train_batch_size": "data.rows",
    "train_micro_batch_size_per_gpu": "micro_rows",
    "gradient_accumulation_steps": "micro_rows",
    "gradient_clipping": "engine.gradient_clip",
    "bf16": "precision",
    "fp16": "precision",
    "torch_autocast": "precision",
    "optimizer": "engine.optimizer, learning_rate, beta1, beta2 and weight_decay",
    "scheduler": "schedule",
    "activation_checkpointing": "activation_checkpointing",
}


@dataclass
class EngineConfig:
    """Optimizer and ZeRO.

    optimizer: "adamw", or "muon" for the matrices between embedding and head, with AdamW for the rest. learning_rate:
    AdamW's. muon_learning_rate: Muon's, whose steps are orthogonal matrices of that size. new_rows_learning_rate:
    AdamW's for rows of new ids (`trainable.py`), 0 for learning_rate.
    zero_stage: 0 none, 1 optimiser states, 2 gradients too, 3 parameters too (ZeRO, arXiv 1910.02054).
    gradient_clip: largest global gradient norm; 0 leaves gradients alone, as Muon always does: its step is the same for
    a gradient of any size.
    timeout_minutes: how long a process waits for the others before the run ends with an error.
    deepspeed: more DeepSpeed settings, merged over ours, e.g. {"zero_optimization": {"offload_optimizer": ...}}.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    new_rows_learning_rate: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    zero_stage: int = 1
    timeout_minutes: float = 30.0
    deepspeed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"engine.optimizer is {self.optimizer!r}; valid: adamw, muon")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ConfigError(f"engine.zero_stage is {self.zero_stage}; valid: 0, 1, 2, 3")
        if self.timeout_minutes <= 0:
            raise ConfigError(f"engine.timeout_minutes is {self.timeout_minutes}; it must be above 0")
        for key in self.deepspeed:
            if key in OURS:
                raise ConfigError(f"engine.deepspeed.{key} has a setting of its own here; use {OURS[key]}")
            if key not in EXTRA:
                nearest = difflib.get_close_matches(key, EXTRA, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid: {', '.join(EXTRA)}"
                raise ConfigError(f"engine.deepspeed: unknown key {key!r}; {hint}")
        checkpoint = self.deepspeed.get("checkpoint", {})
        if isinstance(checkpoint, dict) and (checkpoint.get("writer") or {}).get("decoupled"):
            raise ConfigError("engine.deepspeed.checkpoint.writer.decoupled has a setting of its own; use save_async")
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ConfigError(f"engine.deepspeed.zero_optimization is {zero!r}, must be a mapping")
        if "stage" in zero:
            raise ConfigError(
                "engine.deepspeed.zero_optimization.stage has a setting of its own; use engine.zero_stage"
            )


@contextmanager
def process_group(timeout_minutes: float = 30.0) -> Iterator[tuple[int, int]]:
    """Join the processes of this run; yield (rank, world size). Works with and without a launcher.

    Raises AnyglotError if another process ends, or keeps this one waiting for longer than `timeout_minutes`.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    import torch.distributed as dist

    # On a CPU this op would be compiled for minutes, and a killed compile leaves a lock that hangs every later run.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    ours: dict[str, str] = {}
    if "RANK" not in os.environ:  # no launcher: one process
        ours = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        ours["MASTER_PORT"] = _free_port()
    os.environ.update(ours)
    backend, timeout = "nccl" if torch.cuda.is_available() else "gloo", timedelta(minutes=timeout_minutes)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()  # without it gloo now and then aborts at exit
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise AnyglotError(
            f"rank {dist.get_rank()} waits in vain for another process, which ended or hangs "
            f"({str(error).splitlines()[0]}); the same command again goes on from the newest checkpoint"
        ) from error
    finally:
        deepspeed.comm.destroy_process_group()  # torch's would leave DeepSpeed with groups that are no more
        for name in ours:  # a process started from here is not a rank of this run
            os.environ.pop(name, None)


def build_engine(
    module: nn.Module, config: EngineConfig, micro_rows: int, dtype: torch.dtype, universal: bool = False
) -> Any:
    """A DeepSpeed engine around `module`, which takes `micro_rows` rows at a time.

    Gradients are summed over micro-batches and ranks, not averaged: divide the loss by what the whole batch counts,
    and multiply it by `loss_scale(engine)`. universal: it is about to load a universal checkpoint.
    Raises ConfigError if DeepSpeed refuses `config.deepspeed`.
    """
    import deepspeed
    from torch.distributed import distributed_c10d

    optimizer = build_optimizer(module, config)
    # ZeRO has taken Muon's steps before it takes the norm: clipping would scale these.
    gradient_clip = config.gradient_clip if config.optimizer == "adamw" else 0.0
    clip_here = config.zero_stage == 0 and dtype == torch.float32  # there DeepSpeed clips, but tells no norm
    if clip_here:
        optimizer.register_step_pre_hook(_clipping(gradient_clip))
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_rows,
        "zero_optimization": {"stage": config.zero_stage},
        "gradient_clipping": 0.0 if clip_here else gradient_clip,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "managed_gradient_accumulation": False,
        "steps_per_print": 10**9,
        "checkpoint": {"load_universal": universal},
    }
    if config.zero_stage < 3:  # ZeRO-3 knows averages only
        settings["gradient_allreduce_op"] = "sum"
    elif config.optimizer == "muon":  # whose steps need whole gradients
        settings["zero_optimization"]["reduce_scatter"] = False
    try:
        for key, value in config.deepspeed.items():
            settings[key] = {**settings[key], **value} if isinstance(settings.get(key), dict) else value
        if config.zero_stage == 3:
            _share_out(module, settings, dtype)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    except (ValueError, TypeError) as error:  # pydantic's errors are ValueErrors
        if not config.deepspeed:
            raise
        reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
        raise ConfigError(f"engine.deepspeed: DeepSpeed refuses it: {reason}") from error
    set_timeout = (
        getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout
    )  # before torch 2.14
    for group in distributed_c10d._world.pg_map:  # those that DeepSpeed has made wait for torch's own time
        set_timeout(timedelta(minutes=config.timeout_minutes), group)
    return engine


@contextmanager
def filled_by_first_rank(config: EngineConfig, rank: int) -> Iterator[bool]:
    """Within it rank 0 alone draws or reads a model's weights at ZeRO 3: the others get theirs when parameters are
    shared out. Gives whether this rank does.

    So only one process holds the whole model in the machine's memory: what is never written takes none.
    """
    if config.zero_stage < 3 or rank == 0:
        yield True
        return
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield False


def _share_out(module: nn.Module, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Leave each rank its share of every parameter, a few at a time: DeepSpeed would first put all on the device."""
    import deepspeed

    for part in module.modules():
        own = nn.ParameterList(part.parameters(recurse=False))
        for parameter in own:
            parameter.data = parameter.data if hasattr(parameter, "ds_id") else parameter.data.to(dtype)
        for buffer in part.buffers(recurse=False):
            buffer.data = buffer.data.to(local_device())
        if len(own):
            deepspeed.zero.Init(module=own, config_dict_or_path=settings, dtype=dtype)


def loss_scale(engine: Any) -> float:
    """What makes ZeRO-3's average over ranks a sum."""
    return float(engine.world_size) if engine.zero_optimization_stage() == 3 else 1.0


def _clipping(largest: float) -> Callable[..., None]:
    """A hook before an optimiser's step: clips the global norm, and leaves it where DeepSpeed looks for it."""

    def clip(optimizer: Any, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer._global_grad_norm = nn.utils.clip_grad_norm_(parameters, largest or float("inf"))

    return clip


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
