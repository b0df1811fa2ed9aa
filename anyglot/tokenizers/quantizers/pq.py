"""Product quantization fitted offline (PQ: Jegou et al. 2011), and what was built on it, as options.

Vectors are rotated, cut into groups of channels, and each group has a codebook of its own, or several that add up.
The options give PQ; OPQ (Ge et al. 2013) and Cartesian k-means (Norouzi and Fleet 2013), which learn the rotation;
optimised Cartesian k-means (Wang et al. 2014) and RVPQ (Niu et al. 2023), with several codes a group; and VAQ
(Paparrizos et al. 2022), which gives more bits to groups with more variance.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.kmeans import cluster_means
from anyglot.tokenizers.quantizers.least_squares import code_sums, pair_counts, solve
from anyglot.tokenizers.quantizers.local_search import errors, sum_codes
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation, pca, procrustes
from anyglot.tokenizers.quantizers.subspaces import Subspaces, nearest_codes, start_codebooks, sum_lookups, take

RIDGE = 1e-2  # of the codebooks' least squares, in vectors


@dataclass
class PQConfig:
    """groups: of channels; their widths differ by at most one. size: codes of each codebook. levels: codes per group,
    whose vectors add up.

    rotation: where it starts: "none", "pca" (principal axes in falling order), or "eigenvalue" (groups of equal
    generalised variance, OPQ's closed form). learn_rotation: go on from there by alternation with the codebooks.
    alternations: of codes, codebooks and rotation, after the k-means start of `iterations` iterations.
    beam: paths kept in the search for the codes of a group with several levels.
    allocation: "equal", or "variance": as many bits in all, but more for groups with more variance, up to `most` codes.
    """

    groups: int = MISSING
    size: int = 256
    levels: int = 1
    rotation: Literal["none", "pca", "eigenvalue"] = "none"
    learn_rotation: bool = False
    iterations: int = 10
    alternations: int = 0
    beam: int = 4
    allocation: Literal["equal", "variance"] = "equal"
    most: int = 4096

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work with vectors of width `dim`."""
        if not 1 <= self.groups <= dim:
            raise ConfigError(f"{where}.groups: {dim} channels make 1 to {dim} groups, got {self.groups}")
        if self.rotation == "eigenvalue" and dim % self.groups:
            raise ConfigError(
                f"{where}.groups: rotation 'eigenvalue' needs groups that divide {dim}, got {self.groups}"
            )
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        for name, least in (("levels", 1), ("iterations", 1), ("alternations", 0), ("beam", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(self, name)}")
        if self.learn_rotation and not self.alternations:
            raise ConfigError(f"{where}.alternations: learn_rotation needs some, e.g. 20")
        if self.allocation == "variance":
            if self.levels > 1:
                raise ConfigError(f"{where}.allocation: 'variance' is for one level per group, got {self.levels}")
            for name in ("size", "most"):
                if getattr(self, name) & (getattr(self, name) - 1):
                    raise ConfigError(
                        f"{where}.{name}: allocation by bits needs a power of 2, got {getattr(self, name)}"
                    )
            if self.most < self.size:
                raise ConfigError(f"{where}.most: must be at least size, {self.size}, got {self.most}")


class PQ(FittedQuantizer):
    """Rotation, groups, codebooks; see `PQConfig`. Codes of the first group come first, then those of the second."""

    mean: Tensor
    rotation: Tensor
    codebooks: Tensor
    bits: Tensor

    def __init__(self, config: PQConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        by_variance = config.allocation == "variance"
        rows = min(config.most, config.size**config.groups) if by_variance else config.size
        super().__init__(dim, (rows,) * (config.groups * config.levels))
        self.config = config
        self.subspaces = Subspaces(dim, config.groups)
        self.rotates = config.rotation != "none" or config.learn_rotation
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("rotation", torch.eye(dim))
        self.register_buffer("codebooks", torch.zeros(config.groups, config.levels, rows, self.subspaces.width))
        if by_variance:
            self.register_buffer("bits", torch.full((config.groups,), rows.bit_length() - 1))

    # The space of the groups.

    def into(self, h: Tensor) -> Tensor:
        """Sub-vectors [groups, n, width] of vectors [n, dim]."""
        return self.subspaces.split((h - self.mean) @ self.rotation if self.rotates else h)

    def back(self, parts: Tensor) -> Tensor:
        """Vectors [n, dim] of sub-vectors [groups, n, width]."""
        vectors = self.subspaces.join(parts)
        return vectors @ self.rotation.t() + self.mean if self.rotates else vectors

    def sizes(self) -> list[int]:
        """Codes of each group's codebooks."""
        return list(self.levels[:: self.config.levels])

    def search(self, parts: Tensor) -> Tensor:
        """Codes [n, groups * levels] of sub-vectors [groups, n, width]."""
        if self.config.levels == 1:
            return nearest_codes(parts, self.codebooks[:, 0], self.sizes())
        found = [beam_encode(part, books, self.config.beam) for part, books in zip(parts, self.codebooks, strict=True)]
        return torch.cat(found, 1)

    def rebuild(self, codes: Tensor) -> Tensor:
        """Sub-vectors [groups, n, width] of codes [n, groups * levels]; a code of -1 adds nothing."""
        if self.config.levels == 1:
            return take(self.codebooks[:, 0], codes)
        parts = zip(self.codebooks, torch.split(codes, self.config.levels, 1), strict=True)
        return torch.stack([sum_codes(books, code) for books, code in parts])

    def assign(self, h: Tensor) -> Tensor:
        return self.search(self.into(h))

    def lookup(self, codes: Tensor) -> Tensor:
        return self.back(self.rebuild(codes))

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """By look-ups: a rotation keeps distances, and those of groups add up (Jegou et al. 2011, asymmetric)."""
        parts = self.into(queries)
        tables = -2 * parts[:, None] @ self.codebooks.transpose(2, 3)  # [groups, levels, q, size]
        lengths = parts.square().sum((0, 2))[:, None]
        if self.config.levels == 1:
            tables += self.codebooks.square().sum(3)[:, :, None]
        else:  # code vectors of one group are not orthogonal
            lengths = lengths + self.rebuild(codes).square().sum((0, 2))
        return lengths + sum_lookups(tables.flatten(0, 1).transpose(0, 1), codes)

    # Fitting.

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        self.start_rotation(x)
        parts = self.into(x)
        if self.config.allocation == "variance":
            self.allocate(parts)
        steps = self.config.alternations + 1
        codes = self.start(parts)
        objective = [self.error(parts, codes)]
        report(1, steps, objective[0])
        for step in range(1, steps):
            if self.config.learn_rotation:
                rebuilt = self.subspaces.join(self.rebuild(codes))
                self.rotation.copy_(procrustes(x - self.mean, rebuilt))
                parts = self.into(x)
            codes = self.choose(parts, codes)
            self.refit(parts, codes)
            objective.append(self.error(parts, codes))
            report(step + 1, steps, objective[-1])
        return objective

    def start_rotation(self, x: Tensor) -> None:
        """Set mean and rotation as `rotation` says."""
        if self.rotates:
            self.mean.copy_(x.mean(0))
            self.rotation.copy_(torch.eye(self.dim))
        if self.config.rotation == "pca":
            self.rotation.copy_(pca(x)[1])
        elif self.config.rotation == "eigenvalue":
            self.rotation.copy_(eigenvalue_allocation(x, self.config.groups))

    def allocate(self, parts: Tensor) -> None:
        """Share the bits of all groups out: each to the channel whose error is the largest, which it divides by 4."""
        most = self.config.most.bit_length() - 1
        budget = self.config.groups * (self.config.size.bit_length() - 1)
        variance = parts.var(1, correction=0)
        bits = torch.zeros(self.config.groups, dtype=torch.int64)
        for _ in range(min(budget, most * self.config.groups)):
            open_groups = torch.where(bits[:, None] < most, variance.cpu(), -1.0)
            place = int(open_groups.argmax())
            group, channel = divmod(place, variance.shape[1])
            bits[group] += 1
            variance[group, channel] /= 4
        self.bits.copy_(bits)
        self.set_levels()

    def set_levels(self) -> None:
        """Make `levels` say what `bits` does."""
        self.levels = tuple(2**bits for bits in self.bits.tolist())

    def start(self, parts: Tensor) -> Tensor:
        """k-means in each group, level after level on what is left over; returns codes."""
        left, codes = parts, []
        rows = self.codebooks.shape[2]
        for level in range(self.config.levels):
            books = start_codebooks(left, self.sizes(), rows, self.config.iterations)
            self.codebooks[:, level] = books
            codes.append(nearest_codes(left, books, self.sizes()))
            left = left - take(books, codes[-1])
        codes_of_groups = torch.stack(codes, 2)  # [n, groups, levels]
        return codes_of_groups.flatten(1)

    def choose(self, parts: Tensor, codes: Tensor) -> Tensor:
        """New codes, but the old ones where a search among several levels found nothing better."""
        found = self.search(parts)
        if self.config.levels == 1:
            return found
        levels, kept = self.config.levels, []
        for part, books, new, old in zip(
            parts, self.codebooks, torch.split(found, levels, 1), torch.split(codes, levels, 1), strict=True
        ):
            better = errors(part, books, new) < errors(part, books, old)
            kept.append(torch.where(better[:, None], new, old))
        return torch.cat(kept, 1)

    def refit(self, parts: Tensor, codes: Tensor) -> None:
        """The best codebooks for these codes: means, or least squares where several add up."""
        for part, books, code in zip(parts, self.codebooks, torch.split(codes, self.config.levels, 1), strict=True):
            if self.config.levels == 1:
                books[0] = cluster_means(part, code[:, 0], books[0])[0]
            else:
                size = self.config.size
                books[:] = solve(pair_counts(code, size), code_sums(code, part, size), books, RIDGE)

    def error(self, parts: Tensor, codes: Tensor) -> float:
        """Mean squared error per channel."""
        return float((parts - self.rebuild(codes)).double().square().sum()) / (parts.shape[1] * self.dim)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        if self.config.allocation == "variance":
            self.set_levels()


CONFIG = PQConfig
QUANTIZER = PQ
