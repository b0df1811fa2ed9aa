"""Product quantization of a source that changes: codebooks follow as running means (online PQ: Xu et al. 2018), and the
rotation as the solution of a running Procrustes problem (online OPQ: Liu et al. 2020).

`fit` starts offline on the first vectors and streams the rest through `update`, which a program then goes on calling
with new ones. Two budgets bound an update: only so many groups change, and only so many codes of each. Stored codes
stay valid: a code means what its vector has become.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.distributed import all_reduce
from anyglot.tokenizers.quantizers.fitted import OnlineQuantizer, Report
from anyglot.tokenizers.quantizers.pq import PQ, PQConfig
from anyglot.tokenizers.quantizers.rotation import procrustes


@dataclass
class OnlinePQConfig:
    """groups, size, iterations: see `pq`. start: vectors that are fitted offline; batch: of each update in `fit`.

    window: the means remember about so many vectors, older ones fade; 0 remembers all.
    group_budget, code_budget: how many groups, and how many codes of a group, an update may change; 0: all.
    rotation: "none" (online PQ), or "follow": OPQ's to start with, updated as well (online OPQ).
    """

    groups: int = MISSING
    size: int = 256
    iterations: int = 10
    start: int = 1024
    batch: int = 256
    window: int = 0
    group_budget: int = 0
    code_budget: int = 0
    rotation: Literal["none", "follow"] = "none"

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.start < self.size:
            raise ConfigError(f"{where}.start: {self.size} codes need as many vectors to start with, got {self.start}")
        if self.batch < 1:
            raise ConfigError(f"{where}.batch: must be 1 or more, got {self.batch}")
        for name, most in (("group_budget", self.groups), ("code_budget", self.size), ("window", None)):
            value = getattr(self, name)
            if value < 0 or (most is not None and value > most):
                limit = "0 or more" if most is None else f"0 (all) to {most}"
                raise ConfigError(f"{where}.{name}: must be {limit}, got {value}")


class OnlinePQ(OnlineQuantizer, PQ):
    """See `OnlinePQConfig`."""

    counts: Tensor
    products: Tensor

    def __init__(self, config: OnlinePQConfig, dim: int, where: str) -> None:
        config.check(where)
        follows = config.rotation == "follow"
        even = dim % max(config.groups, 1) == 0
        offline = PQConfig(
            groups=config.groups,
            size=config.size,
            iterations=config.iterations,
            rotation="eigenvalue" if follows and even else "none",
            learn_rotation=follows,
            alternations=10 if follows else 0,
        )
        super().__init__(offline, dim, where)
        self.online = config
        self.register_buffer("counts", torch.zeros(config.groups, config.size))
        self.register_buffer("products", torch.zeros(dim, dim) if follows else torch.zeros(0))

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        """Start and stream; the objective is each batch's error before its update."""
        first, rest = x[: self.online.start], x[self.online.start :]
        objective = super().learn(first, labels, lambda done, total, error: None)[-1:]
        codes = self.assign(first)
        self.counts.copy_(torch.stack([torch.bincount(code, minlength=self.config.size) for code in codes.t()]))
        if self.rotates:
            self.products.copy_((first - self.mean).t() @ self.subspaces.join(self.rebuild(codes)))
        steps = 1 + -(-len(rest) // self.online.batch)
        report(1, steps, objective[0])
        for batch in torch.split(rest, self.online.batch) if len(rest) else ():
            objective.append(self.follow(batch))
            report(len(objective), steps, objective[-1])
        return objective

    def follow(self, x: Tensor) -> float:
        parts = self.into(x)
        codes = self.search(parts)
        rebuilt = self.rebuild(codes)
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.codebooks[:, 0])
        for group, (part, code) in enumerate(zip(parts, codes.t(), strict=True)):
            counts[group] = torch.bincount(code, minlength=self.config.size)
            sums[group].index_add_(0, code, part)
        totals = torch.tensor([float((parts - rebuilt).square().sum()), float(len(x))], device=x.device)
        for tensor in (counts, sums, totals):
            all_reduce(tensor)
        error, count = float(totals[0]), float(totals[1])
        fade = max(1 - count / self.online.window, 0.0) if self.online.window else 1.0
        self.counts.mul_(fade)
        self.move(counts, sums)
        if self.rotates:
            self.products.mul_(fade).add_(all_reduce((x - self.mean).t() @ self.subspaces.join(rebuilt)))
            self.rotation.copy_(procrustes(torch.eye(self.dim, device=x.device), self.products))
        return error / (count * self.dim)

    def move(self, counts: Tensor, sums: Tensor) -> None:
        """Move the codes that gain most by it to their running means, within the budgets.

        counts: [groups, size], sums: [groups, size, width] of the new vectors of each code.
        """
        books = self.codebooks[:, 0]
        known = (self.counts + counts).clamp(min=1e-12)[..., None]
        means = torch.where(counts[..., None] > 0, (self.counts[..., None] * books + sums) / known, books)
        centre = sums / counts.clamp(min=1)[..., None]
        gain = counts * ((centre - books).square().sum(2) - (centre - means).square().sum(2))
        chosen = counts > 0
        if self.online.code_budget:
            best = gain.topk(self.online.code_budget, 1).indices
            chosen &= torch.zeros_like(chosen).scatter_(1, best, True)
        if self.online.group_budget:
            best = (gain * chosen).sum(1).topk(self.online.group_budget).indices
            chosen &= torch.zeros_like(chosen).index_fill_(0, best, True)
        books.copy_(torch.where(chosen[..., None], means, books))
        self.counts.add_(counts * chosen)


CONFIG = OnlinePQConfig
QUANTIZER = OnlinePQ
