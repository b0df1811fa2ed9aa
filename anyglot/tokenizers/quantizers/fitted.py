"""Quantizers that are fitted to a set of vectors offline (k-means, least squares, Procrustes), then used as are."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.search import full_precision

Report = Callable[[int, int, float], None]  # steps done, of how many, and the mean squared error now


class FittedQuantizer(Quantizer):
    """Base of the offline families. A family writes `learn`, `assign` and `lookup`.

    All that is fitted lies in buffers whose shapes the config fixes, so that a saved state always loads. A step of
    training changes nothing: in an autoencoder only the encoder follows, by the commitment loss.
    """

    fitted: Tensor

    def __init__(self, dim: int, levels: tuple[int, ...], commitment: float = 0.25) -> None:
        super().__init__(dim, dim, levels, {"commitment": commitment})
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def ready(self) -> bool:
        return bool(self.fitted)

    def learn(self, x: Tensor, labels: Tensor | None, report: Report) -> list[float]:
        """Fit the buffers to fp32 vectors [n, dim]; returns the objective after each iteration."""
        raise NotImplementedError

    def fit(self, vectors: Tensor, labels: Tensor | None = None, report: Report | None = None) -> list[float]:
        """Fit to vectors [n, dim]. The same vectors give the same result.

        Args:
            labels: int64 [n], the class of each vector, for the supervised families.
            report: called with (iterations done, of how many, mean squared error) as it goes on.
        Returns:
            the objective after each iteration, as the family defines it.
        Raises:
            AnyglotError: a wrong shape, NaN or infinity, too few vectors, or labels that are missing.
        """
        self._check_shape(vectors, None)
        if vectors.ndim != 2:
            raise AnyglotError(f"expected vectors [n, {self.dim}] to fit to, got {list(vectors.shape)}")
        if not bool(torch.isfinite(vectors).all()):
            raise AnyglotError(f"expected finite vectors [n, {self.dim}], got NaN or infinity; drop those vectors")
        if len(vectors) < max(self.levels):
            raise AnyglotError(
                f"{len(vectors)} vectors are too few to fit a codebook of {max(self.levels)} codes; give more, or make "
                "the codebook smaller"
            )
        if labels is not None and labels.shape != vectors.shape[:1]:
            raise AnyglotError(f"expected labels [{len(vectors)}], one per vector, got {list(labels.shape)}")
        with full_precision(vectors.device):
            objective = self.learn(vectors.detach().float(), labels, report or (lambda done, total, error: None))
        broken = [name for name, buffer in self.named_buffers() if not bool(torch.isfinite(buffer).all())]
        if broken:
            raise AnyglotError(
                f"fitting gave NaN or infinity in {broken[0]!r}: the {len(vectors)} vectors differ too little, or a "
                "learning rate is too high; give more vectors, or fewer codes"
            )
        self.fitted.fill_(True)
        return objective

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        codes = self.assign(h.detach())
        vectors = self.lookup(codes)
        count = mean_count(h.shape[0], h.device, self.updating)
        losses = {"commitment": F.mse_loss(h, vectors, reduction="sum") / (count * self.width)}
        stats: dict[str, Tensor] = {}
        for level, size in enumerate(self.levels):
            found = code_stats(count_codes(codes[:, level], size), size)
            stats |= {f"{name}_{level}": value for name, value in found.items()}
        for name in ("usage", "perplexity"):
            stats[name] = torch.stack([stats[f"{name}_{level}"] for level in range(len(self.levels))]).mean()
        return Quantized(vectors, codes, losses, stats)

    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        self._check_fitted()
        return super().distances(queries, codes)

    def quantize(self, z: Tensor, sample: Tensor) -> Quantized:
        self._check_fitted()
        return super().quantize(z, sample)

    def encode_flat(self, z: Tensor) -> Tensor:
        self._check_fitted()
        return super().encode_flat(z)

    def decode_flat(self, codes: Tensor) -> Tensor:
        self._check_fitted()
        return super().decode_flat(codes)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise AnyglotError(
                f"this {type(self).__name__} has not been fitted; call fit(vectors), or `anyglot train` its recipe"
            )


class OnlineQuantizer(FittedQuantizer):
    """One that goes on to follow a stream. A family writes `follow` besides."""

    def follow(self, x: Tensor) -> float:
        """Take in fp32 vectors [n, dim] of all ranks; returns their mean squared error before."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, vectors: Tensor) -> float:
        """Follow new vectors [n, dim]; ranks must all call it, each with its own, and stay equal.

        Returns the mean squared error of these vectors before the update. Raises AnyglotError for a wrong shape, NaN or
        infinity, or a quantizer that has not been fitted.
        """
        self._check_shape(vectors, None)
        self._check_fitted()
        if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
            raise AnyglotError(f"expected finite vectors [n, {self.dim}], got {list(vectors.shape)} or NaN or infinity")
        with full_precision(vectors.device):
            return self.follow(vectors.float())
