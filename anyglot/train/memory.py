"""What one rank of a run holds at the fullest moment of a step, found without allocating it.

The engine's states follow from numbers of parameters, as DeepSpeed lays them out; its own estimators
(`estimate_zero2_model_states_mem_needs` and its sibling for ZeRO 3) leave out buckets, fp32 runs and activations.
Activations are found by running the model itself on fake tensors, which have shapes but no memory.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from anyglot.train.engine import EngineConfig

BUCKET = 500_000_000  # DeepSpeed's defaults, in elements
LIVE = REUSE = SUBGROUP = 1_000_000_000
PREFETCH, PERSISTENT = 50_000_000, 100_000


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    weights: whole or a share, and at ZeRO 3 those gathered. optimizer: fp32 weights and moments. activations: with the
    blocks of logits. buffers: of reductions, and of the optimizer's step. host: offloaded to the machine's memory.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float = 0.0
    buffers: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        """Bytes on the device."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


@dataclass(frozen=True)
class Job:
    """What the memory of a rank depends on, besides its activations.

    trained, frozen: numbers of parameters, each counted once. largest: the largest one's size. small: in parameters
    that ZeRO 3 leaves whole. moments: bytes of the optimizer's moments, over all ranks. element: bytes of a weight in
    the computation, 2 or 4. accumulates: a step takes more than one micro-batch. gpu: torch's AdamW takes all tensors
    at once there, and its temporaries are as large as they are.
    """

    trained: int
    frozen: int
    largest: int
    small: int
    moments: float
    element: int
    world: int
    accumulates: bool
    zero: dict[str, Any]
    gpu: bool = True

    @property
    def master(self) -> float:
        """Bytes of fp32 weights beside bf16 ones."""
        return 4.0 * self.trained if self.element == 2 else 0.0

    def offloads(self, what: str) -> bool:
        """Whether "optimizer" or "param" is in the memory of the machine."""
        return (self.zero.get(f"offload_{what}") or {}).get("device", "none") != "none"

    def elements(self, setting: str, default: int) -> int:
        """A setting of DeepSpeed's that counts elements."""
        return int(self.zero.get(setting, default))


def job_of(
    parameters: Sequence[nn.Parameter],
    engine: EngineConfig,
    dtype: torch.dtype,
    world: int,
    accumulates: bool,
    muon: Sequence[nn.Parameter] = (),
    gpu: bool = True,
) -> Job:
    """The `Job` of a model's parameters; `muon` are those that Muon steps, whose one moment is kept in `dtype`."""
    zero = engine.deepspeed.get("zero_optimization", {})
    threshold = int(zero.get("stage3_param_persistence_threshold", PERSISTENT))
    sizes = [parameter.numel() for parameter in parameters]
    trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
    return Job(
        trained=sum(trained),
        frozen=sum(sizes) - sum(trained),
        largest=max(sizes),
        small=sum(size for size in sizes if size <= threshold),
        moments=8.0 * sum(trained) - (8.0 - dtype.itemsize) * sum(parameter.numel() for parameter in muon),
        element=dtype.itemsize,
        world=world,
        accumulates=accumulates,
        zero=zero,
        gpu=gpu,
    )


def rank_memory(job: Job, stage: int, activations: float) -> Memory:
    """The memory of a rank at its fullest: in the backward pass, when gradients are reduced, or in the step.

    activations: bytes of a micro-batch, from `peak_of`, gradients left out.
    """
    moments = (_zero_0, _zero_1_2, _zero_1_2, _zero_3)[stage](job, stage, activations)
    return max(moments, key=lambda memory: memory.total)


def checkpoint_bytes(job: Job, stage: int) -> float:
    """What the first rank writes of a checkpoint, and with `save_async` copies into the machine's memory.

    Optimizer states whole or of a share, and below stage 3 the weights, which the other ranks leave to it; at stage 3
    the weights are the optimizer's fp32 ones, and a share of the frozen ones.
    """
    weights = job.element * (job.trained + job.frozen)
    if stage == 0:
        return weights + job.master + job.moments
    states = (4 * job.trained + job.moments) / job.world
    return states + (weights if stage < 3 else job.element * job.frozen / job.world)


def _zero_0(job: Job, _: int, activations: float) -> list[Memory]:
    """Everything whole on every rank."""
    weights, gradients = job.element * (job.trained + job.frozen), job.element * job.trained
    optimizer = job.master + job.moments
    reduced = job.element * min(job.trained, BUCKET)
    step = job.master + (4 * job.trained if job.gpu else 8 * job.largest)  # fp32 gradients beside bf16 ones
    return [
        Memory(weights, gradients, optimizer, activations=activations),
        Memory(weights, gradients, optimizer, buffers=max(reduced, step)),
    ]


def _zero_1_2(job: Job, stage: int, activations: float) -> list[Memory]:
    """Whole weights; fp32 weights and moments of a share; gradients whole at stage 1, and of a share at stage 2."""
    part = job.trained / job.world
    weights, whole = job.element * (job.trained + job.frozen), job.element * job.trained
    owned = job.element * (part if job.world == 1 else part + job.largest / 2)  # a parameter on a border is held whole
    optimizer = 4 * part + job.moments / job.world
    size = job.elements("reduce_bucket_size", BUCKET)
    bucket = job.element * size * (2 if job.zero.get("overlap_comm") else 1)
    if job.world > 1:
        bucket += job.element * min(size, job.trained)  # once more, sorted by rank
    if job.offloads("optimizer"):
        gradients = whole if stage == 1 else 0.0
        bucket += job.element * job.largest
        host = optimizer + (4 + 2 * job.element) * part  # fp32 gradients, weights on their way, gradients so far
        return [Memory(weights, gradients, 0.0, activations, bucket, host)]
    if stage == 1:  # what was summed is reduced at the end of all micro-batches
        gradients, reduction = whole, [Memory(weights, whole, optimizer, buffers=bucket + owned)]
    else:
        gradients, reduction = owned * (2 if job.accumulates else 1), []
    step = max(job.element * part + (4 * part if job.element == 2 else 0), 4 * part + _temporary(job, part) - owned)
    return [
        Memory(weights, gradients, optimizer, activations, bucket),
        *reduction,
        Memory(weights, owned, optimizer, buffers=step),
    ]


def _zero_3(job: Job, _: int, activations: float) -> list[Memory]:
    """A share of everything, and the weights that are gathered for the layers in use."""
    part, everything = job.trained / job.world, job.trained + job.frozen
    optimizer = 4 * part + job.moments / job.world
    gathered = 0.0
    if job.world > 1:
        prefetched = job.elements("stage3_prefetch_bucket_size", PREFETCH)
        reused = job.elements("stage3_max_reuse_distance", REUSE) / 2  # on the way forward and on the way back
        live = min(job.elements("stage3_max_live_parameters", LIVE), reused + prefetched) + job.largest
        gathered = job.small + min(everything - job.small, live)
        gathered = job.element * (gathered + min(everything, prefetched))  # several at once are put together by a copy
    weights, host = job.element * everything / job.world, 0.0
    size = job.elements("reduce_bucket_size", BUCKET)
    bucket, sorted_by_rank = job.element * size, job.element * min(size, job.trained)
    if job.offloads("param"):
        weights, host = 0.0, weights
    if job.offloads("optimizer"):
        host += optimizer + (4 + job.element) * part
        return [Memory(weights + gathered, 0.0, 0.0, activations, bucket + sorted_by_rank, host)]
    group = min(part, job.elements("sub_group_size", SUBGROUP))
    step = max((job.element + 4) * group if job.element == 2 else 4 * group, 4 * group + _temporary(job, group))
    return [
        Memory(weights + gathered, job.element * part, optimizer, activations, bucket + sorted_by_rank, host),
        Memory(weights, job.element * part, optimizer, buffers=bucket + step, host=host),
    ]


def _temporary(job: Job, numel: float) -> float:
    """AdamW's root of the second moment; on a CPU there is a moment when it is there twice."""
    return (4 if job.gpu else 8) * numel


def peak_of(backward: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> int:
    """Bytes that a forward and backward pass needs at its fullest, beside `parameters` and their gradients.

    backward: runs the forward pass and returns the loss. Under a `FakeTensorMode` nothing is allocated; real tensors
    give the same figure.
    """
    hook = torch.Tensor.register_post_accumulate_grad_hook
    handles = [hook(p, _let_go) for p in parameters if p.requires_grad]  # type: ignore[no-untyped-call]
    with _Live(parameters) as live:
        backward().backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    return live.peak


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make, for as long as each lives.

    On fake tensors every label bears loss, since which ones do is not known.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.storages = WeakIdKeyDictionary()
        for tensor in known:
            self.storages[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch._subclasses import FakeTensor

        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            result = torch.empty(args[0].numel(), args[0].ndim, dtype=torch.int64)
        else:
            result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self.storages:
            return
        self.storages[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size
