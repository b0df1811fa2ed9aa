"""What is trained at which rate: parameter groups, and the optimizer over them."""

from typing import Any, Protocol

import torch
from torch import nn

from anyglot.lm.loss import BlockwiseCrossEntropy
from anyglot.lm.rows import SplitRows

HIDDEN, DECAYED, PLAIN, NEW_ROWS = "hidden", "decayed", "plain", "new_rows"  # names of the groups


class Rates(Protocol):
    """The fields of `EngineConfig` that an optimizer is made of."""

    optimizer: str
    learning_rate: float
    muon_learning_rate: float
    new_rows_learning_rate: float
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
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.Embedding | BlockwiseCrossEntropy | SplitRows)
        for parameter in part.parameters()
    }
    new_rows = {id(part.new_rows) for part in module.modules() if isinstance(part, SplitRows)}
    members: dict[str, list[nn.Parameter]] = {HIDDEN: [], DECAYED: [], PLAIN: [], NEW_ROWS: []}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in new_rows:
            members[NEW_ROWS].append(parameter)
        elif parameter.ndim < 2:
            members[PLAIN].append(parameter)
        elif config.optimizer == "muon" and parameter.ndim == 2 and id(parameter) not in ends:
            members[HIDDEN].append(parameter)
        else:
            members[DECAYED].append(parameter)
    return [
        {
            "name": name,
            "params": params,
            "lr": _highest(config, name),
            "weight_decay": 0.0 if name == PLAIN else config.weight_decay,
        }
        for name, params in members.items()
    ]


def _highest(config: Rates, name: str) -> float:
    own = {HIDDEN: config.muon_learning_rate, NEW_ROWS: config.new_rows_learning_rate or config.learning_rate}
    return own.get(name, config.learning_rate)
