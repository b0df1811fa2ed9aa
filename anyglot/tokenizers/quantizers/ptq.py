"""Product tree quantization (PTQ: Yuan and Liu 2015): codebooks for the whole vector, for its halves, quarters, ...

A vector is the sum of one code vector of every node of the tree. The nodes near the root say what the groups of
channels have in common, which a product quantizer takes for independent; the leaves are a product quantizer of the
rest.
"""

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.fitted import Report
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.least_squares import code_sums, pair_counts, solve
from anyglot.tokenizers.quantizers.local_search import errors
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.summed import SummedQuantizer

RIDGE = 1e-2  # of the codebooks' least squares, in vectors


@dataclass
class PTQConfig:
    """parts: into how many parts each depth cuts the vector, from the root on, e.g. [1, 2, 4]; each number divides the
    next, and the last the channels. size: codes of every node. beam: paths kept in the search for codes.
    iterations: of k-means at the start. alternations: of codes and codebooks, all fitted together.
    """

    parts: list[int] = field(default_factory=lambda: [1, 2, 4])
    size: int = 256
    beam: int = 4
    iterations: int = 10
    alternations: int = 4

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work with vectors of width `dim`."""
        chain = [*self.parts, dim]
        if not self.parts or min(self.parts) < 1 or any(b % a for a, b in itertools.pairwise(chain)):
            raise ConfigError(f"{where}.parts: each must divide the next, and the last {dim}; got {list(self.parts)}")
        for name, least in (("size", 2), ("beam", 1), ("iterations", 1), ("alternations", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")


class PTQ(SummedQuantizer):
    """See `PTQConfig`. Codes are those of the root, then of the next depth from the first channels to the last, ..."""

    def __init__(self, config: PTQConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        super().__init__(dim, sum(config.parts), config.size)
        self.config = config
        self.spans = [
            slice(part * dim // parts, (part + 1) * dim // parts) for parts in config.parts for part in range(parts)
        ]  # the channels of each node; its code vectors are zero elsewhere

    def assign(self, h: Tensor) -> Tensor:
        return beam_encode(h, self.codebooks, self.config.beam)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        codes = self.start(x)
        objective = [self.error(x, codes)]
        steps = self.config.alternations + 1
        report(1, steps, objective[0])
        for step in range(1, steps):
            self.refit(x, codes)
            found = self.assign(x)
            better = errors(x, self.codebooks, found) < errors(x, self.codebooks, codes)
            codes = torch.where(better[:, None], found, codes)
            objective.append(self.error(x, codes))
            report(step + 1, steps, objective[-1])
        return objective

    def start(self, x: Tensor) -> Tensor:
        """k-means in every node, on what the nodes above leave over; returns codes [n, levels]."""
        left, codes = x.clone(), []
        for book, span in zip(self.codebooks, self.spans, strict=True):
            part = left[:, span]
            centres = kmeans(part, self.config.size, self.config.iterations)[0]
            book.zero_()
            book[:, span] = centres[0]  # codes left over, where distinct vectors are few, repeat the first
            book[: len(centres), span] = centres
            codes.append(nearest(part, centres)[0])
            left[:, span] = part - centres[codes[-1]]
        return torch.stack(codes, 1)

    def refit(self, x: Tensor, codes: Tensor) -> None:
        """The best codebooks for these codes: for the channels of a leaf those of the nodes from the root to it."""
        leaves = self.spans[-self.config.parts[-1] :]
        for leaf in leaves:
            path = [node for node, span in enumerate(self.spans) if span.start <= leaf.start and leaf.stop <= span.stop]
            mine = codes[:, path]
            counts, sums = pair_counts(mine, self.config.size), code_sums(mine, x[:, leaf], self.config.size)
            self.codebooks[path, :, leaf] = solve(counts, sums, self.codebooks[path, :, leaf], RIDGE)

    def error(self, x: Tensor, codes: Tensor) -> float:
        """Mean squared error per channel."""
        return float(errors(x, self.codebooks, codes).double().sum()) / x.numel()


CONFIG = PTQConfig
QUANTIZER = PTQ
