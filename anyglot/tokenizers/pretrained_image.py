"""Published picture tokenizers with the tokenizer interface: Emu3, Janus, Chameleon, taming VQGANs and LlamaGen.

`adopt` takes one over from a directory or the Hugging Face hub. Its codebook becomes one of `quantizers.vq`, so that
codes are chosen exactly, in fp32 and by tiles, and the language model can begin from its vectors.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.image import ImageTokenizer
from anyglot.tokenizers.key_layouts import config_of, from_llamagen, from_taming
from anyglot.tokenizers.module import TokenizerModule

CLASSES = {
    "emu3": "Emu3VQVAE",
    "janus": "JanusVQVAE",
    "chameleon": "ChameleonVQVAE",
    "taming": "JanusVQVAE",
    "llamagen": "JanusVQVAE",
}
LAYOUTS = {"taming": from_taming, "llamagen": from_llamagen}  # published as bare weights


@dataclass
class PretrainedImageConfig:
    """architecture: one of `CLASSES`. model: the model's own config, as transformers writes it. mean, std: what its
    pixels, 0 to 1, were normalised with, per channel. The limits are those of `ImageConfig`."""

    architecture: str
    model: dict[str, Any] = field(default_factory=dict)
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    max_side: int = 1024
    max_pixels: int = 1024 * 1024
    batch_pixels: int = 256 * 1024


class PretrainedImage(ImageTokenizer):
    """A published picture tokenizer as the `ModalityTokenizer` for pictures. It only codes; it is not trained here."""

    implementation: ClassVar[str] = "pretrained_image"
    config_class: ClassVar[type] = PretrainedImageConfig
    config: PretrainedImageConfig  # type: ignore[assignment]
    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainedImageConfig, model: Any = None) -> None:
        TokenizerModule.__init__(self, config)
        name = _class_name(config.architecture)
        if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0:
            raise ConfigError("mean, std: three numbers each, one per channel, std above 0")
        import transformers

        if model is None:
            model = getattr(transformers, name)(getattr(transformers, f"{name}Config")(**config.model))
        codes = model.quantize.embedding.weight.detach()
        # LlamaGen, which Janus took over, looks codes up at unit length; transformers' own `JanusVQVAE.encode` searches
        # among them as they are, and so finds other codes than the model was trained with.
        metric = "cosine" if config.architecture in ("janus", "llamagen") else "euclidean"
        book = {"type": "vq", "codebook": "learned", "metric": metric, "kmeans_init": False, "reset_below": 0.0}
        self.quantizer = quantizers.build({**book, "size": codes.shape[0]}, codes.shape[1], "quantizer")
        self.quantizer.load_state_dict({**self.quantizer.state_dict(), "codebook.weight": codes})
        del model.quantize
        self.stride = 2 ** (len(model.config.channel_multiplier) - 1)
        emu3 = config.architecture == "emu3"
        self.model = _VideoModel(model) if emu3 else _PictureModel(model)
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)

    def encoder(self, pictures: Tensor) -> Tensor:  # type: ignore[override]
        """Pictures `[batch, 3, height, width]` in [-1, 1] to latents `[batch, rows, columns, dim]`."""
        return self.model.encode(((pictures + 1) / 2 - self.mean) / self.std)

    def decoder(self, vectors: Tensor) -> Tensor:  # type: ignore[override]
        """Code vectors `[batch, rows, columns, dim]` to pictures `[batch, 3, height, width]`, about [-1, 1]."""
        return (self.model.decode(vectors) * self.std + self.mean) * 2 - 1

    def _checked(self, picture: np.ndarray, name: str) -> tuple[int, int]:
        grid = super()._checked(picture, name)
        if grid == (1, 1):  # group normalisation refuses a single place
            raise MediaError(
                f"{name}: {picture.shape[1]} x {picture.shape[0]} pixels are one code; this tokenizer needs more than "
                f"{self.stride} pixels on one side, resize it"
            )
        return grid


class _PictureModel(nn.Module):
    """Encoder and decoder of Janus and Chameleon, channel-last in between."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model

    def encode(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.network.quant_conv(self.network.encoder(pixels))
        return latents.permute(0, 2, 3, 1)

    def decode(self, vectors: Tensor) -> Tensor:
        if not hasattr(self.network, "decoder"):
            raise AnyglotError("Chameleon's published picture tokenizer has no decoder: it can code, not draw")
        pixels: Tensor = self.network.decoder(self.network.post_quant_conv(vectors.permute(0, 3, 1, 2)))
        return pixels


class _VideoModel(nn.Module):
    """Encoder and decoder of Emu3, for which a picture is a clip that stands still."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model
        self.frames: int = model.config.temporal_downsample_factor

    def encode(self, pixels: Tensor) -> Tensor:
        clip = pixels[:, None].repeat(1, self.frames, 1, 1, 1)
        latents = self.network.quant_conv(self.network.encoder(clip).transpose(1, 2))  # [batch, dim, 1, rows, columns]
        return latents[:, :, 0].permute(0, 2, 3, 1)

    def decode(self, vectors: Tensor) -> Tensor:
        codes = vectors.permute(0, 3, 1, 2)[:, :, None]
        latents = self.network.post_quant_conv(codes)
        clip: Tensor = self.network.decoder(latents.transpose(1, 2), codes.transpose(1, 2))
        batch, rows, columns, _ = vectors.shape
        height, width = rows * self.network.spatial_scale_factor, columns * self.network.spatial_scale_factor
        return clip.reshape(batch, self.frames, -1, height, width)[:, 0]


def adopt(config: PretrainedImageConfig, source: str, revision: str = "") -> PretrainedImage:
    """Take over a published picture tokenizer.

    Args:
        config: without `model`, which is the source's.
        source: a directory with config.json and model.safetensors, or a name on the Hugging Face hub; of "taming" and
            "llamagen" a safetensors file with the published keys.
        revision: of the hub's repository, a branch, tag or commit; "" for the newest.
    Raises:
        AnyglotError: nothing to load there, or no safetensors: pickles are never opened.
    """
    import transformers

    name = _class_name(config.architecture)
    if config.architecture in LAYOUTS:
        return _from_keys(config, Path(source))
    try:
        model = getattr(transformers, name).from_pretrained(source, revision=revision or None, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise AnyglotError(
            f"{source}: no {name} could be loaded ({str(error).splitlines()[0]}); give a directory "
            "with config.json and model.safetensors, or a name on the hub"
        ) from error
    return PretrainedImage(replace(config, model=model.config.to_dict()), model.float()).eval()


def _from_keys(config: PretrainedImageConfig, file: Path) -> PretrainedImage:
    """Take over a safetensors file in the key layout of the config's architecture."""
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = LAYOUTS[config.architecture](load_file(file))
        described = transformers.JanusVQVAEConfig(**config_of(weights))
    except (OSError, SafetensorError) as error:
        raise AnyglotError(
            f"{file}: no safetensors file ({error}); checkpoints in other formats are pickles, which are never opened: "
            "convert the weights once where you trust them"
        ) from error
    except AnyglotError as error:
        raise AnyglotError(f"{file}: {error}") from error
    model = transformers.JanusVQVAE(described)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise AnyglotError(
            f"{file}: not a {config.architecture} VQGAN: {str(error).splitlines()[1].strip()}"
        ) from error
    return PretrainedImage(replace(config, model=described.to_dict()), model.float()).eval()


def _class_name(architecture: str) -> str:
    """Of the model in transformers. Raises ConfigError that lists the architectures there are."""
    if architecture not in CLASSES:
        raise ConfigError(f"architecture: no picture tokenizer {architecture!r}; valid: {', '.join(CLASSES)}")
    return CLASSES[architecture]


TOKENIZER = PretrainedImage
