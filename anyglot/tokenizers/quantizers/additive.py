"""Additive quantization: a vector is the sum of M code vectors of full width, one of each codebook, chosen jointly.

AQ and APQ (Babenko & Lempitsky 2014, CVPR), LSQ (Martinez et al. 2016, ECCV), LSQ++ (Martinez et al. 2018, ECCV).
"""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import least_squares
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.local_search import errors, local_search, sum_codes
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation, procrustes
from anyglot.tokenizers.quantizers.staged import clusters


@dataclass
class AdditiveConfig:
    """levels: codebooks, of `size` codes each. iterations: of choosing codes and fitting codebooks in turn.

    beam: partial sums kept by the beam search for codes. rounds: of local search after it, each of which perturbs
    `perturb` codes of a vector and sweeps over all up to `sweeps` times; 0 leaves it at the beam (AQ), 4 to 16 are
    LSQ. train_rounds: of them in each iteration, where codes carry over; 0 for as many.
    relaxation: standard deviation of the noise on the codebooks while codes are chosen, relative to a codebook's share
    of the vectors' deviation, annealed to 0 (LSQ++).
    groups: rotate the vectors and quantize equal groups of channels apart, with levels / groups codebooks each (APQ).
    density: share of the codebooks' entries that may differ from 0. ridge: how many vectors a codebook's last
    state counts as when it is fitted anew.
    """

    levels: int = MISSING
    size: int = MISSING
    iterations: int = 10
    beam: int = 1
    rounds: int = 0
    train_rounds: int = 0
    perturb: int = 4
    sweeps: int = 4
    relaxation: float = 0.0
    groups: int = 1
    density: float = 1.0
    ridge: float = 0.01
    commitment: float = 0.25


def check(config: AdditiveConfig, dim: int, where: str) -> None:
    """Raise ConfigError for values that make no additive quantizer of vectors of width `dim`."""
    bounds = {"levels": 1, "size": 2, "iterations": 1, "beam": 1, "rounds": 0, "train_rounds": 0, "sweeps": 1}
    for name, least in bounds.items():
        if getattr(config, name) < least:
            raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(config, name)}")
    if config.groups < 1 or dim % config.groups or config.levels % config.groups:
        raise ConfigError(
            f"{where}.groups: must divide the width of the vectors, {dim}, and the levels, {config.levels}; "
            f"got {config.groups}"
        )
    if config.rounds and not 1 <= config.perturb <= config.levels // config.groups:
        raise ConfigError(
            f"{where}.perturb: some of the {config.levels // config.groups} codes of a group, got {config.perturb}"
        )
    if not 0 < config.density <= 1:
        raise ConfigError(f"{where}.density: a share of the entries, above 0 and up to 1, got {config.density}")
    if config.ridge <= 0:
        raise ConfigError(f"{where}.ridge: must be above 0, or the codebooks are not unique; got {config.ridge}")
    for name in ("relaxation", "commitment"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{where}.{name}: must be 0 or more, got {getattr(config, name)}")


class AdditiveQuantizer(FittedQuantizer):
    """Codebooks [levels, size, dim / groups] of the rotated vectors; group g of channels has its own run of levels."""

    codebooks: Tensor
    rotation: Tensor

    def __init__(self, config: AdditiveConfig, dim: int, where: str) -> None:
        check(config, dim, where)
        super().__init__(dim, (config.size,) * config.levels, config.commitment)
        self.config = config
        self.register_buffer("codebooks", torch.zeros(config.levels, config.size, dim // config.groups))
        if config.groups > 1:
            self.register_buffer("rotation", torch.eye(dim))

    def rotate(self, h: Tensor) -> list[Tensor]:
        """The groups of channels [n, dim / groups] of vectors [n, dim]."""
        if self.config.groups == 1:
            return [h]
        return list((h @ self.rotation).chunk(self.config.groups, 1))

    def search(self, x: Tensor, codebooks: Tensor) -> Tensor:
        """Codes [n, m] of one group's channels [n, d] in its codebooks [m, K, d]."""
        codes = beam_encode(x, codebooks, self.config.beam)
        if not self.config.rounds:
            return codes
        return local_search(x, codebooks, codes, self.config.rounds, self.config.perturb, self.config.sweeps)

    def assign(self, h: Tensor) -> Tensor:
        books = self.codebooks.chunk(self.config.groups)
        return torch.cat([self.search(x, book) for x, book in zip(self.rotate(h), books, strict=True)], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        groups = self.config.groups
        if groups == 1:
            return sum_codes(self.codebooks, codes)
        return self._sum_groups(codes) @ self.rotation.t()

    def _sum_groups(self, codes: Tensor) -> Tensor:
        """Sums of code vectors [n, dim], before the rotation is undone."""
        parts = zip(self.codebooks.chunk(self.config.groups), codes.chunk(self.config.groups, 1), strict=True)
        return torch.cat([sum_codes(book, part) for book, part in parts], 1)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        """Objective: the mean squared distance |x - decoded|^2. Without relaxation it never rises."""
        config, generator = self.config, torch.Generator().manual_seed(0)
        if config.groups > 1:
            self.rotation.copy_(eigenvalue_allocation(x, config.groups))
        parts = self.rotate(x)
        books, codes = map(list, zip(*[start(part, config) for part in parts], strict=True))
        objective = []
        for iteration in range(config.iterations):
            heat = config.relaxation * (1 - (iteration + 1) / config.iterations) ** 0.5
            for group, part in enumerate(parts):
                noise = part.std(0) / len(books[group]) * heat
                shaken = books[group] + torch.randn(books[group].shape, generator=generator).to(x.device) * noise
                codes[group] = self._better(part, shaken, codes[group])
                books[group] = fit_codebooks(part, codes[group], books[group], config)
            self.codebooks.copy_(torch.cat(books))
            joined = torch.cat(codes, 1)
            if config.groups > 1:
                self.rotation.copy_(procrustes(x, self._sum_groups(joined)))
                parts = self.rotate(x)
            objective.append(float((x - self.lookup(joined)).square().sum(1).mean()))
            report(iteration + 1, config.iterations, objective[-1] / self.dim)
        return objective

    def _better(self, x: Tensor, codebooks: Tensor, codes: Tensor) -> Tensor:
        """Of the codes there were and those that a new search finds, the better for each vector."""
        if self.config.rounds:
            rounds = self.config.train_rounds or self.config.rounds
            return local_search(x, codebooks, codes, rounds, self.config.perturb, self.config.sweeps)
        found = self.search(x, codebooks)
        better = errors(x, codebooks, found) < errors(x, codebooks, codes)
        return torch.where(better[:, None], found, codes)

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances [q, n] by one table of inner products per query and the lengths of the sums, which come
        from tables of pairs of codes."""
        books, parts = self.codebooks.chunk(self.config.groups), codes.chunk(self.config.groups, 1)
        found = queries.square().sum(1)[:, None].expand(-1, len(codes))
        for query, book, part in zip(self.rotate(queries), books, parts, strict=True):
            products = torch.einsum("mkd,qd->mkq", book, query)
            found = found + sum_codes(-2 * products, part).t() + squared_lengths(book, part)
        return found


def start(x: Tensor, config: AdditiveConfig) -> tuple[Tensor, Tensor]:
    """Codebooks [m, K, d] and codes [n, m] of residual k-means over one group's channels [n, d]."""
    left, books = x, []
    for _ in range(config.levels // config.groups):
        books.append(clusters(left, config.size, iterations=5))
        left = left - books[-1][beam_encode(left, books[-1][None], 1)[:, 0]]
    codebooks = torch.stack(books)
    return codebooks, beam_encode(x, codebooks, config.beam)


def fit_codebooks(x: Tensor, codes: Tensor, codebooks: Tensor, config: AdditiveConfig) -> Tensor:
    """Codebooks for given codes of one group's channels [n, d]: by least squares, sparse ones on their support."""
    counts = least_squares.pair_counts(codes, config.size)
    sums = least_squares.code_sums(codes, x, config.size)
    if config.density < 1:
        return least_squares.solve_sparse(counts, sums, codebooks, config.ridge, config.density)
    return least_squares.solve(counts, sums, codebooks, config.ridge)


def squared_lengths(codebooks: Tensor, codes: Tensor) -> Tensor:
    """|sum of code vectors|^2 [n] of codes [n, m], from tables of inner products of pairs of codes."""
    total = torch.zeros(len(codes), device=codebooks.device)
    for i, book in enumerate(codebooks):
        total = total + book.square().sum(1)[codes[:, i]]
        for j in range(i):
            total = total + 2 * (book @ codebooks[j].t())[codes[:, i], codes[:, j]]
    return total


CONFIG = AdditiveConfig
QUANTIZER = AdditiveQuantizer
