"""What is trained at which rate: parameter groups, and the optimizer over them."""

from typing import Any, Protocol

import torch
from torch import nn

from anyglot.lm.loss import BlockwiseCrossEntropy

HIDDEN, DECAYED, PLAIN = "hidden", "decayed", "plain"  # names of the groups


class Rates(Protocol):
    """The fields of `EngineConfig` that an optimizer is made of."""

    optimizer: str
    learning_rate: float
    muon_learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float


def build_optimizer(module: nn.Module, config: Rates) -> torch.optim.Optimizer:
    """AdamW over all parameters, or Muon over the matrices between embedding and head and AdamW over the rest.

    Muon (Jordan et al., 2024; DeepSpeed's, which knows its ZeRO stages) steps by the nearest orthogonal matrix to the
    momentum of the gradient, times the square root of rows over columns where there are more rows.
    """
    groups = [group for group in _groups(module, config) if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    if not torch.cuda.is_available():
        torch.compiler.set_stance("force_eager")  # DeepSpeed compiles Muon's step, which on a CPU takes a C++ compiler
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group in groups:
        group["use_muon"] = group["name"] == HIDDEN
        group |= {"momentum": 0.95} if group["use_muon"] else {"betas": (config.beta1, config.beta2)}
        for parameter in group["params"]:
            parameter.use_muon = group["use_muon"]  # where ZeRO looks
    return MuonWithAuxAdam(groups)


def set_learning_rates(optimizer: Any, config: Rates, factor: float) -> None:
    """Set every group's rate to `factor` times its highest."""
    for group in optimizer.param_groups:
        group["lr"] = factor * _highest(config, group["name"])


def _groups(module: nn.Module, config: Rates) -> list[dict[str, Any]]:
    """Every trained parameter in one group; norms and biases are not decayed."""
    ends = {
        id(part.weight)
        for part in module.modules()
        if isinstance(part, nn.Embedding | BlockwiseCrossEntropy) and isinstance(part.weight, nn.Parameter)
    }
    members: dict[str, list[nn.Parameter]] = {HIDDEN: [], DECAYED: [], PLAIN: []}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            members[PLAIN].append(parameter)
        elif config.optimizer == "muon" and parameter.ndim == 2 and id(parameter) not in ends:
            members[HIDDEN].append(parameter)
        else:
            members[DECAYED].append(parameter)
    decay = {HIDDEN: config.weight_decay, DECAYED: config.weight_decay, PLAIN: 0.0}
    return [
        {"name": name, "params": params, "lr": _highest(config, name), "weight_decay": decay[name]}
        for name, params in members.items()
    ]


def _highest(config: Rates, name: str) -> float:
    return config.muon_learning_rate if name == HIDDEN else config.learning_rate
