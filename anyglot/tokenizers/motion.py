"""Motion tokenizer: 1-D convolutional encoder, any quantizer, decoder, over features of any skeleton.

With a VQ it is T2M-GPT's (arXiv:2301.06052), with a residual VQ MoMask's (arXiv:2312.00063). What the features of a
frame mean is up to the data: HumanML3D's 263 (`humanml3d.py`), joint angles, key points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.clips import write_clip
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.motion_conv import MotionConvConfig, MotionDecoder, MotionEncoder
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.skeletons.figures import figure, rigged
from anyglot.tokenizers.skeletons.motion_files import hierarchy_text, read_motion, rig_of, write_motion
from anyglot.tokenizers.spec import Axis, CodeSpec

SMALLEST = 1e-3  # standard deviation of a feature that hardly moves, so that noise in it is not blown up


@dataclass
class MotionConfig:
    """features: numbers per frame. fps: frames a second. network: shape of encoder and decoder. dim: width of the
    latents. quantizer: {"type": ..., and its fields}. max_frames: longer motions are refused. groups: where each run of
    features ends that shares one standard deviation, e.g. HumanML3D's [1, 3, 4, 67, 193, 259, 263]; empty:
    each has its own. batch_frames: how many frames `encode` and `decode` put through the network at once. skeleton:
    whose features they are, one of `figures.FIGURES`, so that motions can be drawn and measured as joints; empty: not
    known. hierarchy: instead, the skeleton of .bvh or .amc files, so that they can be read and written: what a .bvh
    file says before MOTION, or an .asf file, or the file's path; then the features are those of `rotating.py`. unit:
    metres per unit of length in these files. amc_fps: frames a second of .amc files, which do not say."""

    features: int = 263
    fps: float = 20.0
    network: MotionConvConfig = field(default_factory=MotionConvConfig)
    dim: int = 512
    quantizer: dict[str, Any] = field(default_factory=dict)
    max_frames: int = 4096
    groups: list[int] = field(default_factory=list)
    batch_frames: int = 16384
    skeleton: str = ""
    hierarchy: str = ""
    unit: float = 1.0
    amc_fps: float = 120.0

    def __post_init__(self) -> None:
        if self.skeleton and self.hierarchy:
            raise ConfigError("set skeleton or hierarchy, not both")
        if min(self.fps, self.unit, self.amc_fps) <= 0:
            raise ConfigError("fps, unit and amc_fps must be above 0")


@dataclass
class Reconstruction:
    """output: `[batch, frames, features]`, normalised as the input is. quantized: of the latents `[batch, n, dim]`."""

    output: Tensor
    quantized: Quantized


class MotionTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for motion; as a module, the autoencoder that training sees."""

    modality: ClassVar[str] = "motion"
    config_class: ClassVar[type] = MotionConfig
    config: MotionConfig
    suffix: ClassVar[str] = ".npy"
    preview_suffix: ClassVar[str] = ".mp4"
    mean: Tensor
    std: Tensor

    def __init__(self, config: MotionConfig) -> None:
        config = replace(config, hierarchy=hierarchy_text(config.hierarchy))
        super().__init__(config)
        self.rig = rig_of(config.hierarchy, config.unit) if config.hierarchy else None
        self.figure = figure(config.skeleton, config.features) if config.skeleton else None
        if self.rig is not None:
            self.figure = rigged(self.rig.skeleton, self.rig.turning)
            if config.features != self.figure.features:
                raise ConfigError(f"a skeleton of {self.rig.text} has {self.figure.features} features; set `features`")
        if config.groups and config.groups != sorted({*config.groups, config.features}):
            raise AnyglotError(
                f"groups: ends of runs of features, ascending, the last one {config.features}; got {config.groups}"
            )
        self.encoder = MotionEncoder(config.network, config.features, config.dim)
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        self.decoder = MotionDecoder(config.network, config.features, config.dim)
        self.stride = config.network.stride
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.ones(config.features))

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "time"."""
        time = Axis("time", "open", -(-self.config.max_frames // self.stride), self.stride)
        return CodeSpec("motion", self.quantizer.levels, (time,), rate=self.config.fps / self.stride)

    def begin(self, media: Sequence[np.ndarray]) -> None:
        """Take mean and standard deviation of the features from the training motions."""
        count, total, squares = 0, 0.0, 0.0
        for index in range(len(media)):
            motion = media[index].astype(np.float64)
            count, total, squares = count + len(motion), total + motion.sum(0), squares + (motion**2).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        for start, end in pairwise([0, *self.config.groups]):
            std[start:end] = std[start:end].mean()
        self.mean.copy_(torch.from_numpy(np.asarray(mean)))
        self.std.copy_(torch.from_numpy(np.maximum(std, SMALLEST)))

    def forward(self, motions: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """Motions `[batch, frames, features]` as they are, frames a multiple of the stride.

        mask: bool `[batch, frames / stride]`, False where a code is padding that the quantizer must not learn from.
        """
        if motions.shape[1] % self.stride:
            raise AnyglotError(
                f"motions of {motions.shape[1]} frames are no multiple of the stride {self.stride}; set the "
                "objective's frames to one"
            )
        quantized = self.quantizer(self.encoder(self.normalised(motions)).float(), mask)
        return Reconstruction(self.decoder(quantized.vectors).float(), quantized)

    def normalised(self, motions: Tensor) -> Tensor:
        """Zero mean and unit variance, as far as the training motions tell."""
        return (motions - self.mean) / self.std

    @torch.no_grad()
    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Motions, float32 `[frames, features]`, to codes `[ceil(frames / stride), levels]`, on the CPU.

        Padded by repeating the last frame; those of one length go through together. Raises MediaError.
        """
        lengths = [self._checked(motion, f"motion {index}") for index, motion in enumerate(media)]
        codes: dict[int, Tensor] = {}
        for length, batch in self._batches(lengths):
            padded = [np.pad(media[i], ((0, length * self.stride - len(media[i])), (0, 0)), mode="edge") for i in batch]
            latents = self.encoder(self.normalised(torch.from_numpy(np.stack(padded)).to(self.device)))
            codes.update(zip(batch, self.quantizer.encode(latents).cpu(), strict=True))
        return [codes[index].clone() for index in range(len(media))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], lengths: Sequence[int] | None = None) -> list[np.ndarray]:
        """Codes `[n, levels]` to motions, float32 `[n * stride, features]`, cut to `lengths` where they are known.

        Raises AnyglotError for codes of another shape.
        """
        for code in codes:
            if code.ndim != 2 or code.numel() == 0:
                raise AnyglotError(f"motion codes must be [time, levels], got {list(code.shape)}")
        motions: dict[int, np.ndarray] = {}
        for _, batch in self._batches([len(code) for code in codes]):
            stacked = torch.stack([codes[index] for index in batch]).to(self.device)
            output = self.decoder(self.quantizer.decode(stacked)) * self.std + self.mean
            motions.update(zip(batch, output.float().cpu().numpy(), strict=True))
        return [motions[index][: lengths[index] if lengths else None] for index in range(len(codes))]

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A file or its bytes as float32 `[frames, features]`: .npy, and as far as the tokenizer knows their skeleton
        .bvh, .amc (with its .asf beside it) and .pose. Raises MediaError naming the file.
        """
        c = self.config
        motion = read_motion(source, c.skeleton, self.rig, c.fps, c.unit, c.amc_fps, c.max_frames)
        self._checked(motion, f"{len(source)} bytes of motion" if isinstance(source, bytes) else str(source))
        return motion

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a motion as .npy, or as a .bvh or .amc of the tokenizer's hierarchy: as the path ends. Atomic."""
        write_motion(media, path, self.rig, self.config.fps, self.config.unit, self.config.amc_fps)

    def preview(self, media: np.ndarray, path: str | Path) -> None:
        """Write a film, MP4 or GIF by the path's ending: the moving figure, or a bar for every feature if the skeleton
        is not known."""
        from anyglot.tokenizers.skeletons.drawing import draw, draw_bars

        mean, std = self.mean.cpu().numpy(), self.std.cpu().numpy()
        frames = draw_bars((media - mean) / std) if self.figure is None else draw(self.figure, media)
        write_clip(frames, self.config.fps, path)

    def _checked(self, motion: np.ndarray, name: str) -> int:
        """How many codes a motion has."""
        if motion.ndim != 2 or motion.shape[1] != self.config.features or motion.dtype != np.float32 or not len(motion):
            raise MediaError(
                f"{name}: expected float32 [frames, {self.config.features}], got {motion.dtype} {list(motion.shape)}; "
                "make its features as the training motions' were"
            )
        if not np.isfinite(motion).all():
            raise MediaError(
                f"{name}: NaN or infinity in {int((~np.isfinite(motion)).any(1).sum())} frames; repair them"
            )
        if len(motion) > self.config.max_frames:
            raise MediaError(
                f"{name}: {len(motion)} frames, more than max_frames={self.config.max_frames}; cut it or raise it"
            )
        return -(-len(motion) // self.stride)

    def _batches(self, lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
        """(length in codes, indices) of batches of one length, each at most batch_frames, but at least one motion."""
        members: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            members.setdefault(length, []).append(index)
        found = []
        for length, indices in members.items():
            count = max(1, self.config.batch_frames // (length * self.stride))
            found += [(length, indices[start : start + count]) for start in range(0, len(indices), count)]
        return found


TOKENIZER = MotionTokenizer
