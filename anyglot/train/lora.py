"""LoRA (Hu et al., 2021, arXiv:2106.09685) through peft: the backbone stays as it is, small matrices beside it learn.

The adapters are put into the model in place, so that it stays a Hugging Face model for the loop. Exported are the model
with them merged in, which is as plain as any, and the adapters alone, as peft writes them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError

ADAPTER = "default"  # peft's name of the one adapter


@dataclass
class LoraConfig:
    """rank: of the matrices beside each weight; 0 for no LoRA. alpha: their product counts alpha / rank.
    dropout: of what goes into them, in training. targets: names of the linear layers that get them, such as q_proj;
    empty: all of the decoder."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError("lora: rank must be at least 0, alpha above 0 and dropout a share of 0 to 1")


def add_lora(model: Any, config: LoraConfig, seed: int) -> None:
    """Put adapters, which change nothing at first, into a Hugging Face causal LM, in place. All else is frozen, except
    rows of new ids that are parameters of their own (`lm/rows.py`).

    seed: of their first weights. Raises ConfigError naming a target that is no linear layer of the model.
    """
    import peft

    linear = {name for name, part in model.get_decoder().named_modules() if isinstance(part, nn.Linear)}
    names = {name.rpartition(".")[2] for name in linear}
    for target in config.targets:
        if target not in names:
            known = ", ".join(sorted(names))
            raise ConfigError(f"lora.targets: the model has no linear layer {target!r}; it has: {known}")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets or sorted(names),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config.name_or_path,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model, ADAPTER)
    for name, parameter in model.named_parameters():
        if name.endswith(".new_rows"):
            parameter.requires_grad_(True)


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` was here."""
    return next(_adapted(model), None) is not None


def merged_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the model as if it had never had adapters, what they learnt added to weights.

    Of the model itself only names and scales are read: at ZeRO 3 its parameters hold nothing.
    """
    merged = {name: value for name, value in state.items() if ".lora_" not in name}
    for name, layer in _adapted(model):
        weight = merged.pop(f"{name}.base_layer.weight")
        down, up = (state[f"{name}.lora_{half}.{ADAPTER}.weight"].float() for half in "AB")
        merged[f"{name}.weight"] = (weight.float() + layer.scaling[ADAPTER] * (up @ down)).to(weight.dtype)
        if f"{name}.base_layer.bias" in merged:
            merged[f"{name}.bias"] = merged.pop(f"{name}.base_layer.bias")
    return merged


def save_adapter(model: Any, state: dict[str, Tensor], directory: Path) -> None:
    """Write all that was trained as peft writes adapters.

    `PeftModel.from_pretrained(backbone, directory)` is then the trained model, once the backbone's embedding is resized
    to as many ids, where there are new ones.

    state: the model's whole state dict (`lm/rows.py`), adapters included.
    """
    from safetensors.torch import save_file

    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    names = {re.sub(r"\.(old|new)_rows$", ".weight", name) for name in trained}
    tensors = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": state[name].contiguous() for name in names}
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    settings = model.peft_config[ADAPTER]
    settings.inference_mode = True
    settings.save_pretrained(directory)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with adapters, by name."""
    for name, part in model.named_modules():
        if hasattr(part, "base_layer") and hasattr(part, "lora_A"):
            yield name, part
