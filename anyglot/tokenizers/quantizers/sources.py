"""Codebooks that are functions of something: frozen, mapped by one matrix, or moved by one shared affine map.

Unlike the free codebooks of `codebook.py`, one gradient or statistic moves all codes, those out of use as well.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.base import Projection
from anyglot.tokenizers.quantizers.codebook import POINTS_PER_CODE, Codebook, LearnedCodebook
from anyglot.tokenizers.quantizers.distributed import all_reduce, broadcast
from anyglot.tokenizers.quantizers.kmeans import kmeans

CODE_DECAY = 0.9  # of the averages over codes; those over vectors have the codebook's own
VARIANCE = 1e-6  # smallest variance that an affine map divides by


class FrozenCodebook(Codebook):
    """Random codes that never change; the encoder learns to use them."""

    fixed: Tensor

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.register_buffer("fixed", self.start_vectors(width))

    def vectors(self) -> Tensor:
        return self.shape(self.fixed)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.shape(F.embedding(codes, self.fixed))


class MappedCodebook(Codebook):
    """Codes are a trained linear map, `map`, of frozen vectors `fixed` [size, any width]."""

    learns = True
    fixed: Tensor
    map: Projection

    def vectors(self) -> Tensor:
        return self.shape(self.map(self.fixed))

    def lookup(self, codes: Tensor) -> Tensor:
        return self.shape(self.map(F.embedding(codes, self.fixed)))  # the map is part of decoding


class LinearCodebook(MappedCodebook):
    """Codes are a linear map of frozen Gaussian vectors of about unit length (SimVQ, arXiv:2411.02038).

    The Gaussian vectors stay frozen: if they learned too, those of codes out of use would again be left behind.
    """

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.register_buffer("fixed", torch.randn(size, width) * width**-0.5)
        self.map = Projection(width, width)


class ProjectedCodebook(MappedCodebook):
    """Codes are a linear map of the k-means centres of features of a pretrained encoder (VQGAN-LC, arXiv:2406.11837).

    features: a safetensors file with those features, `train` [n, feature_width]; read when training starts.
    """

    def __init__(self, size: int, width: int, *rest: Any, features: Path, feature_width: int) -> None:
        super().__init__(size, width, *rest)
        self.features = features
        self.register_buffer("fixed", torch.randn(size, feature_width))
        self.map = Projection(feature_width, width)

    @torch.no_grad()
    def collect(self, h: Tensor) -> None:
        """Make the centres of the features. Raises AnyglotError if there are not enough, or the file is unfit."""
        vectors = read_features(self.features, self.fixed.shape[1])
        wanted = min(POINTS_PER_CODE * self.size, len(vectors))
        vectors = vectors[torch.arange(wanted) * len(vectors) // wanted].to(h.device)
        centres, _ = kmeans(vectors, self.size)
        if len(centres) < self.size:
            raise AnyglotError(
                f"{self.features}: {len(centres)} distinct features are too few for a codebook of {self.size} codes"
            )
        self.fixed.copy_(broadcast(centres))
        self.initialised.fill_(True)


class AffineCodebook(LearnedCodebook):
    """Codes are learned up to an affine map that gives them the mean and spread of the vectors, per channel:
    (c - mean_c) std_z / std_c + mean_z, from moving averages (Huh et al. 2023, arXiv:2305.08842).

    So codes out of use follow the encoder as well.
    """

    input_mean: Tensor
    input_var: Tensor
    code_mean: Tensor
    code_var: Tensor

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        for name in ("input", "code"):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_var", torch.ones(width))

    def vectors(self) -> Tensor:
        return self.moved(super().vectors())

    def lookup(self, codes: Tensor) -> Tensor:
        return self.moved(super().lookup(codes))

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        super().place(rows, (vectors - self.input_mean) / self.scale() + self.code_mean, counts)

    def moved(self, codes: Tensor) -> Tensor:
        """Codes [n, width] as they are looked up and returned."""
        return (codes - self.code_mean) * self.scale() + self.input_mean

    def scale(self) -> Tensor:
        """std_z / std_c [width]."""
        return (self.input_var.clamp(min=VARIANCE) / self.code_var.clamp(min=VARIANCE)).sqrt()

    def follow(self, h: Tensor, codes: Tensor, counts: Tensor) -> None:
        super().follow(h, codes, counts)
        total = counts.sum()
        mean = all_reduce(h.sum(0)) / total
        self._average("input", mean, all_reduce((h - mean).square().sum(0)) / total, self.decay)
        weight = self.weight.float()
        self._average("code", weight.mean(0), weight.var(0, correction=0), CODE_DECAY)

    def _average(self, what: str, mean: Tensor, var: Tensor, decay: float) -> None:
        rate = torch.where(self.updates == 0, 1.0, 1 - decay)  # the first step's values are the start
        getattr(self, f"{what}_mean").lerp_(mean, rate)
        getattr(self, f"{what}_var").lerp_(var, rate)


def read_features(path: Path, width: int) -> Tensor:
    """`train` [n, width] of a safetensors file. Raises AnyglotError if it is missing, damaged or of another width."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise AnyglotError(f"{path}: no such file; write the features there, or give another `features`")
    try:
        with safe_open(path, framework="pt") as file:
            features: Tensor = file.get_tensor("train").float()
    except SafetensorError as error:
        raise AnyglotError(f"{path}: needs a tensor 'train' [n, {width}] ({error})") from error
    if features.ndim != 2 or features.shape[1] != width:
        raise AnyglotError(f"{path}: expected features [n, {width}], as feature_width says, got {list(features.shape)}")
    return features
