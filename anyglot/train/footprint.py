"""What a run needs of each rank under one setting or another: its model on fake tensors, and DeepSpeed's states."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from anyglot.lm.loss import block_rows
from anyglot.lm.model import LanguageModel, build_model, extend_model, flops_per_token
from anyglot.lm.rows import split_rows
from anyglot.train.memory import Job, Memory, job_of, peak_of, rank_memory
from anyglot.train.optimizers import HIDDEN, _groups
from anyglot.train.pretrain import PretrainConfig
from anyglot.train.trainable import freeze


@dataclass(frozen=True)
class Setting:
    """What decides the memory of a rank, and can be changed without changing what is learned."""

    stage: int
    micro_rows: int
    checkpointing: bool
    offload: bool = False

    def overrides(self, other: "Setting") -> list[str]:
        """The `key=value` words that turn `other` into this."""
        words = [
            (self.stage != other.stage, f"engine.zero_stage={self.stage}"),
            (self.micro_rows != other.micro_rows, f"micro_rows={self.micro_rows}"),
            (self.checkpointing != other.checkpointing, "activation_checkpointing=true"),
            (self.offload != other.offload, "engine.deepspeed.zero_optimization.offload_optimizer.device=cpu"),
            (self.offload != other.offload, "engine.deepspeed.zero_force_ds_cpu_optimizer=false"),
        ]
        return [word for changed, word in words if changed]


class Footprint:
    """A config's model on fake tensors, and what is found out about it."""

    def __init__(self, config: PretrainConfig, vocabulary: int, gpu: bool = True) -> None:
        from torch._subclasses import FakeTensorMode

        self.config, self.vocabulary, self.gpu = config, vocabulary, gpu
        self.dtype = torch.float32 if config.precision == "fp32" else torch.bfloat16
        self.mode = FakeTensorMode()
        with self.mode, _default_dtype(self.dtype):
            self.model = LanguageModel(_without_weights(config, vocabulary), config.z_loss).train()
        if gpu:
            self.model.loss.rows = block_rows(vocabulary, "cuda")
        self.parameters = list(self.model.parameters())
        self.flops = flops_per_token(self.model.model, config.data.length)
        self.peak = cache(self._peak)

    def job(self, gpus: int, rows: int = 0, offload: bool = False) -> Job:
        """What the memory of a rank follows from. rows: of a micro-batch, 0 where it does not matter."""
        zero = dict(self.config.engine.deepspeed.get("zero_optimization", {}))
        if offload and not offloads(zero):
            zero["offload_optimizer"] = {"device": "cpu"}
        engine = replace(self.config.engine, deepspeed={"zero_optimization": zero})
        muon = [p for group in _groups(self.model, engine) if group["name"] == HIDDEN for p in group["params"]]
        accumulates = 0 < rows < -(-self.config.data.rows // gpus)
        return job_of(self.parameters, engine, self.dtype, gpus, accumulates, muon, self.gpu)

    def memory(self, setting: Setting, gpus: int) -> Memory:
        """Of a rank, at its fullest."""
        job = self.job(gpus, setting.micro_rows, setting.offload)
        activations = self.activations(setting.micro_rows, setting.checkpointing)
        if (
            setting.stage < 2 and not job.accumulates
        ):  # whole gradients come while activations go: the fuller end counts
            gradients = float(job.element * job.trained)
            last = self.peak(setting.micro_rows, setting.checkpointing, 1)
            activations = max(activations, gradients + last) - gradients
        return rank_memory(job, setting.stage, activations)

    def activations(self, rows: int, checkpointing: bool) -> float:
        """Bytes beside weights and gradients at the fullest moment of the backward pass; each layer adds the same."""
        layers = len(self.model.model.get_decoder().layers)
        if layers < 4:
            return self.peak(rows, checkpointing, layers)
        two, three = (self.peak(rows, checkpointing, number) for number in (2, 3))
        return two + (layers - 2) * (three - two)

    def _peak(self, rows: int, checkpointing: bool, layers: int) -> float:
        """The same of a model of so many layers."""
        decoder = self.model.model.get_decoder()
        whole, decoder.layers = decoder.layers, decoder.layers[:layers]
        if checkpointing:
            self.model.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.model.gradient_checkpointing_disable()
        try:
            with self.mode:
                return float(peak_of(lambda: self._loss(rows), self.parameters))
        finally:
            decoder.layers = whole

    def _loss(self, rows: int) -> Tensor:
        ids = torch.zeros(rows, self.config.data.length, dtype=torch.int64)
        positions, labels, documents = ids.clone(), ids.clone(), ids.int()
        return self.model(ids, positions, documents, labels, torch.ones(ids.shape)).total


def offloads(zero: dict[str, Any]) -> bool:
    """Whether DeepSpeed's `zero_optimization` puts the optimizer into the memory of the machine."""
    return (zero.get("offload_optimizer") or {}).get("device", "none") != "none"


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _without_weights(config: PretrainConfig, vocabulary: int) -> Any:
    """The model that a run trains, for the shapes of it: a pretrained one's weights are not read."""
    if not config.model.pretrained:
        # GPUs drop attention in their fused kernel, the CPU would build all of it.
        model = build_model(replace(config.model, attention_dropout=0.0), vocabulary)
    else:
        import transformers

        shape = transformers.AutoConfig.from_pretrained(config.model.pretrained)
        model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.get_default_dtype())
        extend_model(model, shape.vocab_size, max(shape.vocab_size, vocabulary))
        if after := config.new_rows.after:
            split_rows(model, int(after) if after.isdecimal() else shape.vocab_size)
    freeze(model, config.freeze)
    return model
