"""PRISE: actions quantized given what is observed, and byte-pair encoding of the codes to skills (arXiv:2402.10450).

A medium is a demonstration `[time, observation + action]`: what is observed at each step, then what is done. A step's
code says which action of the few that make sense here; a skill is a run of codes that often occurs (Zheng et al. 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.integer_bpe import IntegerBPE, train
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.mlp import MLP
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.steps import check_steps, read_steps, write_steps

SMALLEST = 1e-3  # standard deviation of a feature that hardly moves


@dataclass
class PriseConfig:
    """observation, action: numbers of each a step; the former stand first. rate: steps a second. hidden: widths of all
    networks. dim: of the state and of the code vectors. quantizer: of one level, few codes. size: skills, the codes
    among them. min_count: rarer pairs are not merged. longest: steps of a skill. max_steps: longer are refused."""

    observation: int = 62
    action: int = 62
    rate: float = 30.0
    hidden: list[int] = field(default_factory=lambda: [256])
    dim: int = 64
    quantizer: dict[str, Any] = field(default_factory=lambda: {"type": "vq", "size": 10})
    size: int = 200
    min_count: int = 10
    longest: int = 20
    max_steps: int = 4096

    def __post_init__(self) -> None:
        if min(self.observation, self.action, self.dim, self.longest, self.max_steps) < 1 or self.min_count < 2:
            raise ConfigError("observation, action, dim, longest, max_steps must be 1 or more, min_count 2 or more")
        if self.rate <= 0:
            raise ConfigError(f"rate: steps a second, got {self.rate}")


@dataclass
class Reconstruction:
    """Of pieces `[batch, steps]`. actions: `[.., action]`, given what was observed at each step. observations:
    `[.., observation]`, foreseen from the first one and the codes before; both normalised. quantized: of the steps."""

    actions: Tensor
    observations: Tensor
    quantized: Quantized


class PriseTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for demonstrations; as a module, what training sees."""

    modality: ClassVar[str] = "action"
    implementation: ClassVar[str] = "action_prise"
    config_class: ClassVar[type] = PriseConfig
    config: PriseConfig
    suffix: ClassVar[str] = ".npy"
    mean: Tensor
    std: Tensor
    merges: Tensor

    def __init__(self, config: PriseConfig) -> None:
        super().__init__(config)
        state, width = [*config.hidden, config.dim], config.observation + config.action
        self.state = MLP([config.observation, *state])
        self.coder = MLP([config.dim + config.action, *state])
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        self.actor = MLP([2 * config.dim, *config.hidden, config.action])
        self.dynamics = MLP([2 * config.dim, *config.hidden, config.observation])
        if len(self.quantizer.levels) != 1 or self.quantizer.levels[0] > config.size:
            raise ConfigError(f"quantizer: one level of at most size={config.size} codes, got {self.quantizer.levels}")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("merges", torch.full((config.size - self.quantizer.levels[0], 2), -1))

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "skill"; how many steps a skill takes depends on it."""
        return CodeSpec("action", (self.config.size,), (Axis("skill", "open", self.config.max_steps),))

    def codebooks(self) -> list[Tensor]:
        """Of each skill the vectors of its first code and of all its codes on average; of none zeros."""
        vectors = self.quantizer.decode(torch.arange(self.quantizer.levels[0], device=self.device)[:, None])
        found = vectors.new_zeros(self.config.size, 2 * self.config.dim)
        for row, codes in zip(found, self._bpe.expansions, strict=False):
            row.copy_(torch.cat([vectors[codes[0]], vectors[list(codes)].mean(0)]))
        return [found]

    def begin(self, media: Sequence[np.ndarray]) -> None:
        """Take mean and standard deviation from the training media."""
        steps = np.concatenate([media[index] for index in range(len(media))]).astype(np.float64)
        self.mean.copy_(torch.from_numpy(steps.mean(0)))
        self.std.copy_(torch.from_numpy(np.maximum(steps.std(0), SMALLEST)))

    def finish(self, media: Sequence[np.ndarray]) -> None:
        """Learn skills from the codes of the training media."""
        codes = [self.codes_of(media[index]) for index in range(len(media))]
        config = self.config
        bpe = train(codes, self.quantizer.levels[0], config.size, config.min_count, config.longest)
        self.merges.fill_(-1)
        self.merges[: len(bpe.merges)] = torch.tensor(bpe.merges, dtype=torch.int64).reshape(-1, 2)
        self.__dict__.pop("_bpe", None)

    def forward(self, steps: Tensor) -> Reconstruction:
        """Pieces of demonstrations `[batch, steps, observation + action]`, as they are."""
        observed, done = self.split(self.normalised(steps))
        state = self.state(observed)
        quantized = self.quantizer(self.coder(torch.cat([state, done], dim=-1)).float())
        codes = quantized.vectors.to(state.dtype)
        foreseen = [observed[:, 0]]
        for code in codes[:, :-1].unbind(1):
            foreseen.append(self.next_observation(self.state(foreseen[-1]), code, foreseen[-1]))
        return Reconstruction(self.actor(torch.cat([state, codes], dim=-1)), torch.stack(foreseen, dim=1), quantized)

    def next_observation(self, state: Tensor, code: Tensor, observed: Tensor) -> Tensor:
        """What will be observed, `[batch, observation]`, normalised as what is."""
        change: Tensor = self.dynamics(torch.cat([state, code], dim=-1))
        return observed + change

    def normalised(self, steps: Tensor) -> Tensor:
        """Zero mean and unit variance, as far as the training media tell."""
        return (steps - self.mean) / self.std

    def split(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and actions of steps `[..., observation + action]`."""
        return steps[..., : self.config.observation], steps[..., self.config.observation :]

    @torch.no_grad()
    def codes_of(self, media: np.ndarray) -> np.ndarray:
        """The code of each step, int64 [time], before they are merged to skills."""
        observed, done = self.split(self.normalised(torch.from_numpy(media).to(self.device)))
        latents = self.coder(torch.cat([self.state(observed), done], dim=-1))
        codes: np.ndarray = self.quantizer.encode(latents)[:, 0].cpu().numpy()
        return codes

    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Demonstrations, float32 [time, observation + action], to skills [n, 1], on the CPU. Raises MediaError."""
        found = []
        for index, steps in enumerate(media):  # one by one: products of other shapes round otherwise
            self._check(steps, f"action {index}")
            found.append(torch.from_numpy(self._bpe.encode(self.codes_of(steps)))[:, None])
        return found

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], observations: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Skills [n, 1] to demonstrations, float32 [time, observation + action].

        observations: of each demonstration those that are known, from the first step on, float32 [k, observation]; a
        controller knows all. The rest is foreseen, where none is known from the mean of the training media on.
        Raises AnyglotError for codes of another shape, or more observations than steps.
        """
        found = []
        for index, code in enumerate(codes):
            if code.ndim != 2 or code.shape[1] != 1 or code.numel() == 0:
                raise AnyglotError(f"action codes must be [n, 1], got {list(code.shape)}")
            steps = torch.from_numpy(self._bpe.decode(code[:, 0].cpu().numpy())).to(self.device)
            known = np.zeros((0, self.config.observation), np.float32) if observations is None else observations[index]
            if known.ndim != 2 or known.shape[1] != self.config.observation or len(known) > len(steps):
                raise AnyglotError(
                    f"observations of {len(steps)} steps must be [at most {len(steps)}, {self.config.observation}], "
                    f"got {list(known.shape)}"
                )
            found.append(self._acted(steps, torch.from_numpy(known).to(self.device)).cpu().numpy())
        return found

    def _acted(self, steps: Tensor, known: Tensor) -> Tensor:
        """Demonstration [time, observation + action] of codes [time], from the known observations on."""
        mean, std = self.split(self.mean)[0], self.split(self.std)[0]
        vectors = self.quantizer.decode(steps[:, None])
        observed = list(((known - mean) / std).unbind(0)) or [torch.zeros_like(mean)]
        for code in vectors[len(observed) - 1 : -1]:
            observed.append(self.next_observation(self.state(observed[-1]), code, observed[-1]))
        seen = torch.stack(observed)
        actions = self.actor(torch.cat([self.state(seen), vectors], dim=-1))
        return torch.cat([seen, actions], dim=-1) * self.std + self.mean

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A `.npy` file or its bytes as float32 [time, observation + action]. Raises MediaError naming the file."""
        steps = read_steps(source, "actions")
        self._check(steps, f"{len(source)} bytes of actions" if isinstance(source, bytes) else str(source))
        return steps

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a demonstration as `.npy`, atomically."""
        write_steps(media, path)

    def _check(self, steps: np.ndarray, name: str) -> None:
        check_steps(steps, self.config.observation + self.config.action, self.config.max_steps, name)

    @cached_property
    def _bpe(self) -> IntegerBPE:
        return IntegerBPE(self.quantizer.levels[0], [(a, b) for a, b in self.merges.tolist() if a >= 0])


TOKENIZER = PriseTokenizer
