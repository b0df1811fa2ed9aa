"""Composite quantization: sums of code vectors whose inner products add up to about the same for every vector.

Then |q - sum c|^2 is a constant plus one look-up per code, and no length of the sum has to be stored: CQ (Zhang, Du
and Wang 2014, ICML). What must be constant is sum_{i != j} c_i.c_j over the code vectors chosen for a vector, not a
property of whole codebooks. Sparse codebooks make the tables cheap (Zhang et al. 2015, CVPR); labels choose the
subspace (Wang et al. 2016, CVPR).
"""

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.local_search import Constant, cross_products, errors, local_search, sum_codes
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation

SHRINKAGE = 0.1  # of the scatter within classes towards a sphere


@dataclass
class CompositeConfig:
    """levels: codebooks, of `size` codes each. iterations: of choosing codes and fitting codebooks in turn, after a
    start from a product quantizer in balanced groups of principal axes.

    penalty: what it costs if the sum of a vector's inner products is off its mean, relative to the error, both in units
    of the vectors' variance. steps: of L-BFGS in each fit of the codebooks. density: share of the codebooks' entries
    that may differ from 0; 1 / levels makes tables as cheap as those of product quantization.
    subspace: quantize in so many channels, those that tell the classes of labelled vectors apart; 0 takes all, without
    labels.
    """

    levels: int = MISSING
    size: int = MISSING
    iterations: int = 10
    penalty: float = 10.0
    steps: int = 8
    density: float = 1.0
    subspace: int = 0
    commitment: float = 0.25


def check(config: CompositeConfig, dim: int, where: str) -> None:
    """Raise ConfigError for values that make no composite quantizer of vectors of width `dim`."""
    for name, least in (("levels", 1), ("size", 2), ("iterations", 1), ("steps", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"{where}.{name}: must be {least} or more, got {getattr(config, name)}")
    if not 0 <= config.subspace <= dim:
        raise ConfigError(f"{where}.subspace: 0 to {dim}, the width of the vectors, got {config.subspace}")
    if (config.subspace or dim) % config.levels:
        raise ConfigError(f"{where}.levels: must divide the {config.subspace or dim} channels, got {config.levels}")
    if not 0 < config.density <= 1:
        raise ConfigError(f"{where}.density: a share of the entries, above 0 and up to 1, got {config.density}")
    for name in ("penalty", "commitment"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{where}.{name}: must be 0 or more, got {getattr(config, name)}")


class CompositeQuantizer(FittedQuantizer):
    """Codebooks [levels, size, width] of the vectors times `into` [dim, width]; `back` [width, dim] leads back."""

    codebooks: Tensor
    into: Tensor
    back: Tensor
    value: Tensor
    weight: Tensor

    def __init__(self, config: CompositeConfig, dim: int, where: str) -> None:
        check(config, dim, where)
        super().__init__(dim, (config.size,) * config.levels, config.commitment)
        self.config = config
        width = config.subspace or dim
        self.register_buffer("codebooks", torch.zeros(config.levels, config.size, width))
        self.register_buffer("into", torch.zeros(dim, width))
        self.register_buffer("back", torch.zeros(width, dim))
        self.register_buffer("value", torch.tensor(0.0))
        self.register_buffer("weight", torch.tensor(0.0))

    @property
    def constant(self) -> Constant:
        """The sum of inner products that the codes are to have, and what it costs to miss it."""
        return Constant(float(self.value), float(self.weight))

    def assign(self, h: Tensor) -> Tensor:
        x = h @ self.into
        return local_search(x, self.codebooks, beam_encode(x, self.codebooks, 1), 0, 0, constant=self.constant)

    def lookup(self, codes: Tensor) -> Tensor:
        return sum_codes(self.codebooks, codes) @ self.back

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Approximate squared distances [q, n]: one look-up per code and nothing else, in the subspace where there is
        one. They are off by sum_{i != j} c_i.c_j less its mean."""
        queries = queries @ self.into
        flat = self.codebooks.reshape(-1, queries.shape[1])
        if self.config.density < 1:
            products = torch.sparse.mm(flat.to_sparse(), queries.t())  # a multiplication for each entry that is not 0
        else:
            products = flat @ queries.t()
        tables = flat.square().sum(1, keepdim=True) - 2 * products
        found = sum_codes(tables.reshape(*self.codebooks.shape[:2], -1), codes).t()
        return found + queries.square().sum(1)[:, None] + self.value

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        """Objective: the mean of |x - sum c|^2 (in the subspace, where there is one) plus the penalty. With dense
        codebooks it never rises."""
        config = self.config
        subspace = discriminant_axes(x, labels, config.subspace) if config.subspace else torch.eye(self.dim).to(x)
        self.into.copy_(subspace @ eigenvalue_allocation(x @ subspace, config.levels))
        z = x @ self.into
        self.weight.copy_(config.penalty / (z - z.mean(0)).square().sum(1).mean())
        books, codes = product_start(z, config)
        objective = []
        for iteration in range(config.iterations):
            codes = local_search(z, books, codes, 0, 0, constant=self.constant)
            self.value.copy_(cross_products(books, codes).mean())
            books = fit_codebooks(z, codes, books, float(self.weight), config)
            self.value.copy_(cross_products(books, codes).mean())
            objective.append(float(errors(z, books, codes, self.constant).mean()))
            self.codebooks.copy_(books)
            self.back.copy_(self._way_back(x, codes))
            error = float((x - self.lookup(codes)).square().mean())
            report(iteration + 1, config.iterations, error)
        return objective

    def _way_back(self, x: Tensor, codes: Tensor) -> Tensor:
        """The linear map [width, dim] from sums of code vectors to vectors: the inverse, or by least squares."""
        if not self.config.subspace:
            return self.into.t()
        sums = sum_codes(self.codebooks, codes).double()
        system = sums.t() @ sums
        system.diagonal().add_(1e-3 * system.diagonal().mean())
        return torch.linalg.solve(system, sums.t() @ x.double()).float()


def product_start(z: Tensor, config: CompositeConfig) -> tuple[Tensor, Tensor]:
    """Codebooks of k-means in each of `levels` groups of channels, 0 elsewhere, and the codes of z [n, width]."""
    books = z.new_zeros(config.levels, config.size, z.shape[1])
    for level, columns in enumerate(torch.arange(z.shape[1]).chunk(config.levels)):
        centres = kmeans(z[:, columns], config.size)[0]
        books[level, : len(centres), columns] = centres
    return books, beam_encode(z, books, 1)


def fit_codebooks(z: Tensor, codes: Tensor, books: Tensor, weight: float, config: CompositeConfig) -> Tensor:
    """Codebooks for given codes; sparse ones keep the entries that add most to the sums, and are fitted on those."""
    found = descend(z, codes, books, weight, config.steps, torch.ones_like(books))
    if config.density == 1:
        return found
    counts = torch.stack([torch.bincount(column, minlength=config.size) for column in codes.t()])
    kept = max(1, int(config.density * books.numel()))
    mask = torch.zeros_like(books).view(-1)
    mask[(found.square() * counts[..., None]).view(-1).topk(kept).indices] = 1
    mask = mask.view(books.shape)
    return descend(z, codes, found * mask, weight, config.steps, mask)


def descend(z: Tensor, codes: Tensor, books: Tensor, weight: float, steps: int, mask: Tensor) -> Tensor:
    """Codebooks with a lower objective for given codes of z [n, width], by L-BFGS over the entries where mask is 1."""
    fitted = books.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([fitted], max_iter=steps, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        crossed = cross_products(fitted * mask, codes)
        loss = errors(z, fitted * mask, codes).mean() + weight * (crossed - crossed.mean()).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with torch.enable_grad():
        before = float(objective())
        optimizer.step(objective)  # type: ignore[no-untyped-call]
        after = float(objective())
    return fitted.detach() * mask if after <= before else books


def discriminant_axes(x: Tensor, labels: Tensor | None, width: int) -> Tensor:
    """Axes [dim, width] that tell the classes of vectors [n, dim] apart, with unit scatter within classes: linear
    discriminant analysis, its scatter shrunk towards a sphere (Friedman 1989). Raises AnyglotError without labels."""
    if labels is None:
        raise AnyglotError("quantizer.subspace is learned from labels; give fit() the class of each vector")
    x = x.double() - x.double().mean(0)
    classes, index = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(index).double()[:, None]
    means = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, index, x) / counts
    left = x - means[index]
    within = left.t() @ left / len(x)
    sphere = within.diagonal().mean()
    within = (1 - SHRINKAGE) * within
    within.diagonal().add_(SHRINKAGE * sphere)
    values, basis = torch.linalg.eigh(within)
    whiten = basis * values.rsqrt()
    spread = (means * counts.sqrt()) @ whiten
    between = torch.linalg.eigh(spread.t() @ spread).eigenvectors.flip(1)[:, :width]
    return (whiten @ between).float()


CONFIG = CompositeConfig
QUANTIZER = CompositeQuantizer
