"""What tokenizers that are networks share: a config, a quantizer, and the directory they are saved in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from anyglot.config import to_mapping, typed
from anyglot.tokenizers.base import Medium, load_directory, save_directory
from anyglot.tokenizers.quantizers import Quantizer, codebooks
from anyglot.tokenizers.spec import CodeSpec


class TokenizerModule(nn.Module):
    """Base of the modality tokenizers. A subclass sets `quantizer`, and writes `spec` and the rest of the contract.

    modality: its name. implementation: its module, where that has another name. config_class: the dataclass of
    `config`. suffix, preview_suffix: of the files that `write` and `preview` make; people look at what is written
    unless `preview` says otherwise. inline: whether its files are a few words. fingerprint: "" until saved or loaded.
    """

    modality: ClassVar[str]
    implementation: ClassVar[str] = ""
    config_class: ClassVar[type]
    suffix: ClassVar[str]
    preview_suffix: ClassVar[str]
    inline: ClassVar[bool] = False
    quantizer: Quantizer

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "suffix" in cls.__dict__ and "preview_suffix" not in cls.__dict__:
            cls.preview_suffix = cls.suffix

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.fingerprint = ""

    @property
    def spec(self) -> CodeSpec:
        """What the tokenizer emits."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def begin(self, media: Sequence[Medium]) -> None:
        """Look at the training media before training begins, for statistics of their features. Most need none."""

    def finish(self, media: Sequence[Medium]) -> None:
        """Look at the training media when training has ended, for tables of their codes. Most need none."""

    def write(self, media: Medium, path: str | Path) -> None:
        """Write one medium to a file, atomically."""
        raise NotImplementedError

    def preview(self, media: Medium, path: str | Path) -> None:
        """Write what people look at; see ModalityTokenizer."""
        self.write(media, path)

    def codebooks(self) -> list[Tensor]:
        """The vectors of every level's codes, `[size, dim]`."""
        return codebooks(self.quantizer)

    def known_codes(self) -> Tensor | None:
        """None: all codes stand for something; see ModalityTokenizer."""
        return None

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the tokenizer directory and take its fingerprint."""
        config = to_mapping(self.config)
        state = self.state_dict()
        self.fingerprint = save_directory(directory, self.modality, config, self.spec, state, self.implementation)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Load a tokenizer directory, in evaluation mode. Raises AnyglotError if it is missing or damaged."""
        manifest, tensors = load_directory(directory)
        tokenizer = cls(typed(cls.config_class, manifest["config"], str(directory)))
        tokenizer.load_state_dict(tensors)
        tokenizer.fingerprint = manifest["fingerprint"]
        return tokenizer.eval()
