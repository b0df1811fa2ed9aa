"""`anyglot generate`: continue a prompt of parts, write what comes out as files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from anyglot.config import typed
from anyglot.data.documents import Message, Part
from anyglot.errors import ConfigError, MediaError
from anyglot.files import write_text
from anyglot.inference import maskgit
from anyglot.inference.anyglot import Anyglot, media_of
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.vocabulary import TEXT
from anyglot.tokenizers.base import tokenizer_class
from anyglot.train.device import local_device


@dataclass
class GenerateConfig:
    """temperature, top_k, top_p, repetition_penalty: of all modalities not named in `sampling`, see SamplingConfig.

    sampling: modality -> settings of its own, e.g. sampling.image.top_k=50. max_tokens: of one answer; what is open
    then is brought to its shortest end. guidance: how far media follow the prompt, 1 as the model does.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    sampling: dict[str, SamplingConfig] = field(default_factory=dict)
    max_tokens: int = 2048
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        _ = self.default  # raises ConfigError for what cannot be

    @property
    def default(self) -> SamplingConfig:
        """The settings of modalities that have none of their own."""
        return SamplingConfig(self.temperature, self.top_k, self.top_p, self.repetition_penalty)


def load_config(overrides: Sequence[str]) -> GenerateConfig:
    """Settings from `key=value` words."""
    mapping = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(mapping, dict)
    return typed(GenerateConfig, {str(key): value for key, value in mapping.items()})


def model_folder(checkpoint: Path) -> Path:
    """The model's own folder, of a checkpoint directory or of a run's folder."""
    return checkpoint / "model" if (checkpoint / "model").is_dir() else checkpoint


def load_model(checkpoint: Path, config: GenerateConfig) -> Anyglot:
    """The model of a checkpoint directory or of a run's folder, set to sample as the config says."""
    model = Anyglot.load(model_folder(checkpoint), local_device(), config.sampling)
    for name in config.sampling:
        if name not in model.vocabulary.modality_names:
            known = ", ".join(model.vocabulary.modality_names)
            raise ConfigError(f"sampling.{name}: this model has no such modality; it has: {known}")
    model.decoder.default = config.default
    return model


def make_part(modality: str, value: str) -> Part:
    """A part of a prompt: words, the path of a file, or what is in it where that can be typed. Raises MediaError."""
    if modality == TEXT:
        return Part(TEXT, text=value)
    if not os.path.isfile(value):  # unlike Path's, False for what is too long to be a name
        if tokenizer_class(modality).inline:
            return Part(modality, data=value.encode())
        raise MediaError(f"{value}: no such file; give the path of a file of modality {modality!r}")
    return Part(modality, path=Path(value))


def write_part(model: Anyglot, part: Part, out: Path, name: str) -> Path:
    """Write a part that a model wrote: `<out>/<name>.txt`, or a file of its modality's kind."""
    if part.type == TEXT:
        path = out / f"{name}.txt"
        write_text(path, part.text or "")
        return path
    tokenizer = model.tokenizers[part.type]
    path = out / f"{name}{tokenizer.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write(media_of(tokenizer, part), path)
    return path


def generate(
    checkpoint: Path,
    parts: Sequence[tuple[str, str]],
    to: str | None,
    out: Path,
    seed: int,
    overrides: Sequence[str],
) -> None:
    """Continue the document that `parts`, as (modality, text or file), begin; write and name each part that follows."""
    from rich.console import Console
    from rich.markup import escape

    from anyglot.inference.terminal import printable

    if maskgit.is_maskgit(model_folder(checkpoint)):
        maskgit.generate(model_folder(checkpoint), parts, to, out, seed, overrides)
        return
    config = load_config(overrides)
    prompt = [make_part(modality, value) for modality, value in parts]
    model = load_model(checkpoint, config)
    (reply,) = model.write([[Message(None, prompt)]], to, config.max_tokens, seed, config.guidance)
    console = Console()
    for number, part in enumerate(reply.parts):
        if part.type != TEXT and part.data is None:
            console.print(f"[bold]{part.type}[/]  its codes stand for nothing", highlight=False)
            continue
        path = write_part(model, part, out, f"{number:02d}-{part.type}")
        console.print(f"[bold]{part.type}[/]  {escape(str(path))}", highlight=False, soft_wrap=True)
        if part.type == TEXT:
            console.out(printable(part.text or ""), highlight=False)
    if not reply.parts:
        console.print("the model ended the document without writing anything")
