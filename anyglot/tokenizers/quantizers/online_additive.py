"""Additive quantization of a stream: codes by randomized block beam search, codebooks that follow the leader.

Online AQ (Liu et al. 2020, KDD). After every batch the codebooks are the best ones for all codes so far. Those solve
one linear system, of counts of code pairs and sums of vectors, which the stream adds to: no vector is kept. That
system being least squares, the error summed over the stream stays close to that of the best codebooks in hindsight.
`fit` starts offline on the first vectors and streams the rest through `update`, which a program then goes on calling.
"""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import least_squares
from anyglot.tokenizers.quantizers.additive import AdditiveConfig, AdditiveQuantizer
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.distributed import all_reduce
from anyglot.tokenizers.quantizers.fitted import OnlineQuantizer, Report
from anyglot.tokenizers.quantizers.local_search import errors, sum_codes


@dataclass
class OnlineAdditiveConfig:
    """levels, size, ridge: see `additive`. iterations: of the offline start.

    start: vectors that are fitted offline; batch: of each update in `fit`. window: the counts remember about so many
    vectors, older ones fade; 0 remembers all.
    beam: partial sums kept in the search within a block of `block` codebooks. passes: how often each codebook is
    searched anew, given the codes of the other blocks.
    """

    levels: int = MISSING
    size: int = MISSING
    iterations: int = 4
    start: int = 1024
    batch: int = 256
    window: int = 0
    beam: int = 8
    block: int = 2
    passes: int = 3
    ridge: float = 0.01
    commitment: float = 0.25

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.start < self.size:
            raise ConfigError(f"{where}.start: {self.size} codes need as many vectors to start with, got {self.start}")
        for name, least in (("batch", 1), ("passes", 1), ("window", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        if not 1 <= self.block <= self.levels:
            raise ConfigError(f"{where}.block: 1 to {self.levels} codebooks, got {self.block}")


class OnlineAdditiveQuantizer(OnlineQuantizer, AdditiveQuantizer):
    """Codebooks with the system they solve: `counts` of code pairs, `sums` of vectors, faded by the window."""

    counts: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, config: OnlineAdditiveConfig, dim: int, where: str) -> None:
        offline = AdditiveConfig(
            levels=config.levels,
            size=config.size,
            iterations=config.iterations,
            beam=config.beam,
            ridge=config.ridge,
            commitment=config.commitment,
        )
        super().__init__(offline, dim, where)
        config.check(where)
        self.online = config
        codes = config.levels * config.size
        self.register_buffer("counts", torch.zeros(codes, codes, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(codes, dim, dtype=torch.float64))
        self.register_buffer("updates", torch.tensor(0))

    def search(self, x: Tensor, codebooks: Tensor) -> Tensor:
        """Codes [n, m] of vectors [n, dim], by blocks that are the same for all vectors and drawn anew each update."""
        drawn = block_order(self.online.levels, self.online.block, self.online.passes, int(self.updates))
        return block_beam_search(x, codebooks, drawn, self.online.beam)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        """Start and stream; the objective is each batch's mean squared distance before its update."""
        first, rest = x[: self.online.start], x[self.online.start :]
        steps = 1 + -(-len(rest) // self.online.batch)
        self.updates.zero_()  # also the seed of the search below
        objective = super().learn(first, labels, lambda done, total, error: None)[-1:]
        report(1, steps, objective[0] / self.dim)
        self.counts.zero_()
        self.sums.zero_()
        self._remember(first, self.assign(first))
        for batch in torch.split(rest, self.online.batch) if len(rest) else ():
            objective.append(self.follow(batch) * self.dim)
            report(len(objective), steps, objective[-1] / self.dim)
        return objective

    def follow(self, x: Tensor) -> float:
        codes = self.assign(x)
        error = errors(x, self.codebooks, codes).sum()
        totals = all_reduce(torch.stack([error, torch.tensor(float(len(x)), device=x.device)]))
        count = float(totals[1])
        if self.online.window:
            fade = max(1 - count / self.online.window, 0.0)
            self.counts.mul_(fade)
            self.sums.mul_(fade)
        self._remember(x, codes)
        self.codebooks.copy_(least_squares.solve(self.counts, self.sums, self.codebooks, self.online.ridge))
        self.updates += 1
        return float(totals[0]) / (count * self.dim)

    def _remember(self, x: Tensor, codes: Tensor) -> None:
        """Add vectors of all ranks to the system."""
        self.counts += all_reduce(least_squares.pair_counts(codes, self.online.size)).double()
        self.sums += all_reduce(least_squares.code_sums(codes, x, self.online.size)).double()


def block_order(levels: int, block: int, passes: int, seed: int) -> list[Tensor]:
    """Random blocks of up to `block` levels, in random order; each level is in one block of every pass."""
    generator = torch.Generator().manual_seed(seed)
    return [part for _ in range(passes) for part in torch.randperm(levels, generator=generator).split(block)]  # type: ignore[no-untyped-call]


def block_beam_search(x: Tensor, codebooks: Tensor, blocks: list[Tensor], width: int) -> Tensor:
    """Codes [n, m] of vectors [n, d] in codebooks [m, K, d]: a beam search of `width` through all codebooks, then
    through those of each block, given the codes of the others; what it finds is kept where it is better."""
    codes = beam_encode(x, codebooks, width)
    for block in blocks:
        books, others = codebooks[block], codes.clone()
        others[:, block] = -1
        left = x - sum_codes(codebooks, others)
        found = beam_encode(left, books, width)
        better = errors(left, books, found) < errors(left, books, codes[:, block])
        codes[:, block] = torch.where(better[:, None], found, codes[:, block])
    return codes


CONFIG = OnlineAdditiveConfig
QUANTIZER = OnlineAdditiveQuantizer
