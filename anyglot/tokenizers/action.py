"""FAST: chunks of actions by a cosine transform over time and byte-pair encoding (Pertsch et al., arXiv:2501.09747).

Each feature is scaled so that its 1st and 99th percentile become -1 and 1, each chunk goes through an orthonormal
DCT-II over time, coefficients are scaled and rounded, low frequencies first, and the integers are merged to tokens.

Nothing is clipped: integers beyond those seen in fitting are written as how far beyond, and the rest. And nothing is
filled in: every integer is there, so codes tell the number of steps, and codes that give no whole steps are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.integer_bpe import IntegerBPE, train
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.steps import check_steps, read_steps, write_steps

LARGEST = 2.0**53  # of a rounded coefficient, far beyond any reach: larger ones are no int64
DESCRIBED = 16  # integers of a code that its codebook vector holds


@dataclass
class ActionConfig:
    """features: numbers a step. rate: steps a second. chunk: steps that are transformed together. scale: of
    coefficients before they are rounded, larger is finer. size: codes, of which the alphabet takes as many as there are
    different integers. quantile: of each feature, that becomes -1, and 1 - quantile 1. reach: integers may lie outside
    those seen in fitting by as many times their span. max_steps: longer media are refused, as is what has more codes
    than max_codes."""

    features: int = 7
    rate: float = 30.0
    chunk: int = 30
    scale: float = 10.0
    size: int = 1024
    quantile: float = 0.01
    reach: int = 8
    max_steps: int = 3000
    max_codes: int = 65536

    def __post_init__(self) -> None:
        if min(self.features, self.chunk, self.max_steps, self.max_codes, self.reach) < 1 or self.size < 4:
            raise ConfigError("features, chunk, reach, max_steps and max_codes must be 1 or more, size 4 or more")
        if self.scale <= 0 or self.rate <= 0 or not 0 <= self.quantile < 0.5:
            raise ConfigError("scale and rate must be above 0, quantile in [0, 0.5)")


class ActionTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for actions. It is fitted, not trained: see `begin`."""

    modality: ClassVar[str] = "action"
    config_class: ClassVar[type] = ActionConfig
    config: ActionConfig
    suffix: ClassVar[str] = ".npy"
    low: Tensor
    high: Tensor
    integers: Tensor
    merges: Tensor

    def __init__(self, config: ActionConfig) -> None:
        super().__init__(config)
        self.register_buffer("low", -torch.ones(config.features, dtype=torch.float64))
        self.register_buffer("high", torch.ones(config.features, dtype=torch.float64))
        self.register_buffer("integers", torch.tensor([0, -1]))  # smallest and largest seen; this is none
        self.register_buffer("merges", torch.full((config.size, 2), -1))

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "code"; how many steps a code stands for depends on it."""
        return CodeSpec("action", (self.config.size,), (Axis("code", "open", self.config.max_codes),))

    @property
    def device(self) -> torch.device:
        """Where the buffers are; the work is NumPy's all the same."""
        return self.low.device

    def codebooks(self) -> list[Tensor]:
        """What each code begins with: its first integers, then zeros, and the logarithm of how many it has."""
        vectors = np.zeros((self.config.size, DESCRIBED + 1), dtype=np.float32)
        for vector, symbols in zip(vectors, self._bpe.expansions, strict=False):  # codes without a merge stay zero
            start = np.array(symbols[:DESCRIBED]) + self._smallest
            vector[: len(start)] = np.where(np.array(symbols[:DESCRIBED]) < self._span, start, 0)
            vector[-1] = np.log(len(symbols))
        return [torch.from_numpy(vectors).to(self.device)]

    def begin(self, media: Sequence[np.ndarray]) -> None:
        """Fit everything to the training media: quantiles, range of integers, merges. Raises ConfigError."""
        steps = np.concatenate([self._checked(media[index], f"action {index}") for index in range(len(media))])
        low, high = np.quantile(steps.astype(np.float64), [self.config.quantile, 1 - self.config.quantile], axis=0)
        middle, still = (low + high) / 2, high - low < 1e-9  # what stands still keeps its own scale
        self.low.copy_(torch.from_numpy(np.where(still, middle - 1, low)))
        self.high.copy_(torch.from_numpy(np.where(still, middle + 1, high)))
        chunks = [chunk for index in range(len(media)) for chunk in self._rounded(media[index])]
        smallest, largest = min(int(chunk.min()) for chunk in chunks), max(int(chunk.max()) for chunk in chunks)
        alphabet = largest - smallest + 3  # and the two that say "beyond"
        if alphabet > self.config.size:
            raise ConfigError(
                f"size {self.config.size} leaves no code for merges: there are {alphabet} different integers; "
                "lower scale or raise size"
            )
        self.integers.copy_(torch.tensor([smallest, largest]))
        bpe = train([chunk - smallest for chunk in chunks], alphabet, self.config.size)
        self.merges.fill_(-1)
        self.merges[: len(bpe.merges)] = torch.tensor(bpe.merges, dtype=torch.int64).reshape(-1, 2)
        self.__dict__.pop("_bpe", None)

    def integers_of(self, media: np.ndarray) -> list[np.ndarray]:
        """The rounded coefficients of each chunk, int64 [steps * features], low frequencies first, before merging."""
        return self._rounded(self._checked(media, "action"))

    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Actions, float32 [time, features], to codes [n, 1], on the CPU. Raises MediaError."""
        bpe, found = self._bpe, []
        for index, steps in enumerate(media):
            name = f"action {index}"
            chunks = [self._symbols(chunk, name) for chunk in self._rounded(self._checked(steps, name))]
            codes = np.concatenate([bpe.encode(chunk) for chunk in chunks])
            if len(codes) > self.config.max_codes:
                raise MediaError(f"{name}: {len(codes)} codes, more than max_codes={self.config.max_codes}; cut it")
            found.append(torch.from_numpy(codes)[:, None])
        return found

    def decode(self, codes: Sequence[Tensor]) -> list[np.ndarray]:
        """Codes [n, 1] to actions, float32 [time, features]. Raises MediaError for codes of no whole steps."""
        found = []
        for code in codes:
            if code.ndim != 2 or code.shape[1] != 1 or code.numel() == 0:
                raise MediaError(f"action codes must be [n, 1], got {list(code.shape)}")
            integers = self._integers(self._bpe.decode(code[:, 0].cpu().numpy()))
            steps, over = divmod(len(integers), self.config.features)
            if over or not steps:
                raise MediaError(
                    f"{len(code)} action codes stand for {len(integers)} numbers, which is no multiple of the "
                    f"{self.config.features} of a step; they were cut or never made by this tokenizer"
                )
            found.append(self._restored(integers.reshape(steps, -1)))
        return found

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A `.npy` file or its bytes as float32 [time, features]. Raises MediaError naming the file."""
        steps = read_steps(source, "actions")
        return self._checked(steps, f"{len(source)} bytes of actions" if isinstance(source, bytes) else str(source))

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write actions as `.npy`, atomically."""
        write_steps(media, path)

    def _checked(self, steps: np.ndarray, name: str) -> np.ndarray:
        check_steps(steps, self.config.features, self.config.max_steps, name)
        return steps

    @property
    def _smallest(self) -> int:
        return int(self.integers[0])

    @property
    def _span(self) -> int:
        """How many different integers there were in fitting: symbols below it are these, then "above" and "below"."""
        return int(self.integers[1]) - self._smallest + 1

    @cached_property
    def _bpe(self) -> IntegerBPE:
        if self._span < 1:
            raise AnyglotError("this action tokenizer was never fitted; `anyglot train action/fast` fits one")
        return IntegerBPE(self._span + 2, [(a, b) for a, b in self.merges.tolist() if a >= 0])

    @property
    def middle(self) -> np.ndarray:
        """What of each feature becomes 0, float64 [features]."""
        return np.asarray((self.low + self.high).double().cpu().numpy() / 2)

    @property
    def half_range(self) -> np.ndarray:
        """How far from the middle each feature becomes 1, float64 [features]."""
        return np.asarray((self.high - self.low).double().cpu().numpy() / 2)

    def _rounded(self, steps: np.ndarray) -> list[np.ndarray]:
        """Rounded coefficients of each chunk, int64 [steps * features]; the last chunk may be shorter."""
        from scipy.fft import dct

        normalised = (steps - self.middle) / self.half_range
        starts = range(0, len(steps), self.config.chunk)
        chunks = [dct(normalised[start : start + self.config.chunk], axis=0, norm="ortho") for start in starts]
        return [np.rint(np.clip(c * self.config.scale, -LARGEST, LARGEST)).astype(np.int64).ravel() for c in chunks]

    def _restored(self, integers: np.ndarray) -> np.ndarray:
        """Steps float32 [time, features] of rounded coefficients [time, features]."""
        from scipy.fft import idct

        pieces = [
            idct(integers[start : start + self.config.chunk] / self.config.scale, axis=0, norm="ortho")
            for start in range(0, len(integers), self.config.chunk)
        ]
        return np.asarray(np.concatenate(pieces) * self.half_range + self.middle, dtype=np.float32)

    def _symbols(self, integers: np.ndarray, name: str) -> np.ndarray:
        """Integers as symbols: one that lies beyond those of fitting follows as many "above" or "below" as spans."""
        places, span = integers - self._smallest, self._span
        spans = places // span  # 0 inside
        farthest = int(np.abs(spans).max())
        if not farthest:
            return places
        if farthest > self.config.reach:
            feature = int(np.abs(spans).argmax()) % self.config.features
            raise MediaError(
                f"{name}: feature {feature} lies {farthest} times the fitted range away, more than "
                f"reach={self.config.reach}; check its units, or fit again with such actions"
            )
        repeats = np.abs(spans) + 1
        symbols = np.repeat(np.where(spans > 0, span, span + 1), repeats)
        symbols[np.cumsum(repeats) - 1] = places - spans * span
        return symbols

    def _integers(self, symbols: np.ndarray) -> np.ndarray:
        """The inverse of `_symbols`. Raises MediaError if the last integer is cut off."""
        span = self._span
        inside = symbols < span
        if inside.all():
            return symbols + self._smallest
        if not inside[-1]:
            raise MediaError("the last action code says that a number follows, and none does; the codes were cut")
        ends = np.flatnonzero(inside)
        beyond = np.concatenate([[0], np.cumsum(np.where(inside, 0, np.where(symbols == span, 1, -1)))[ends]])
        return symbols[ends] + np.diff(beyond) * span + self._smallest


TOKENIZER = ActionTokenizer
