"""MaskGIT (Chang et al., arXiv 2202.04200): a bidirectional transformer that tells masked codes of a medium from the
codes that are known and from words, all of them at once.

Words and codes are ids of the shared vocabulary; the id behind its last one stands for a masked code. A medium's codes
`[*grid, levels]` are one position each, cell by cell, all levels of a cell together; where a position lies is told by
waves along every axis, so that any grid can be asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.lm.streams import factor, unfactor
from anyglot.lm.vocabulary import Vocabulary

WEIGHTS, CONFIG = "model.safetensors", "maskgit.json"
LONGEST = 10_000.0  # positions that the longest wave is about long (Vaswani et al., arXiv 1706.03762)


@dataclass
class MaskGITConfig:
    """Shape of the transformer. hidden: its width. max_words: text ids it is told; what is longer is cut."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    dropout: float = 0.1
    max_words: int = 64

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.max_words) < 1 or self.hidden < 2 or self.hidden % (2 * self.heads):
            raise ConfigError(
                "model: layers, heads and max_words must be at least 1, hidden an even multiple of heads; "
                f"got {asdict(self)}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model: dropout {self.dropout} must lie in [0, 1)")


@dataclass(frozen=True, eq=False)
class Block:
    """The codes of one medium, and the words for it.

    words: text ids, int64 `[n]`. ids: of the vocabulary, int64 `[*grid, levels]`, levels as they are written; the mask
    id where a code is not known.
    """

    words: np.ndarray
    ids: np.ndarray


class Batch(NamedTuple):
    """Blocks side by side, padded behind.

    words, has_word: int64 and bool `[batch, words]`. ids: int64 `[batch, length]`. places: int64
    `[batch, length, axes]`. levels: int64 `[batch, length]`. real: bool `[batch, length]`, False for padding.
    """

    words: Tensor
    has_word: Tensor
    ids: Tensor
    places: Tensor
    levels: Tensor
    real: Tensor


class MaskedTransformer(nn.Module):
    """The transformer over one modality of a vocabulary. Raises MismatchError if there is no such modality."""

    def __init__(self, config: MaskGITConfig, vocabulary: Vocabulary, modality: str) -> None:
        super().__init__()
        self.config, self.modality = config, vocabulary.modality(modality)
        self.vocabulary = vocabulary
        self.mask = vocabulary.size
        count = len(self.modality.levels)
        self.codebooks = [vocabulary.named_blocks[f"{modality}.{level}"] for level in range(count)]
        width = config.hidden
        self.embedding = nn.Embedding(vocabulary.size + 1, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # the head's rows too; `_embedded` makes it 1 for input
        self.word_place = nn.Linear(width, width)
        self.code_place = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in self.modality.spec.axes)
        self.level = nn.Parameter(torch.randn(count, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, config.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(book.size)) for book in self.codebooks)

    def forward(self, batch: Batch) -> Tensor:
        """States of all codes, `[batch, length, hidden]`, from which `logits` reads what each of them is."""
        words = torch.arange(batch.words.shape[1], device=batch.words.device)
        said = self._embedded(batch.words) + self.word_place(waves(words, self.config.hidden))
        codes = self._embedded(batch.ids) + self.level[batch.levels]
        for axis, place in enumerate(self.code_place):
            codes = codes + place(waves(batch.places[..., axis], self.config.hidden))
        hidden = torch.cat([said, codes], 1)
        padding = ~torch.cat([batch.has_word, batch.real], 1)
        return self.head(self.layers(hidden, src_key_padding_mask=padding)[:, said.shape[1] :])

    def _embedded(self, ids: Tensor) -> Tensor:
        """As large as the waves of places, which would drown them."""
        return self.embedding(ids) * self.config.hidden**0.5

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Of states `[n, hidden]`, which code of a level they are: fp32 `[n, size of its codebook]`."""
        book = self.codebooks[level]
        weight = self.embedding.weight[book.start : book.end]
        return F.linear(states, weight, self.biases[level]).float()

    def block(self, words: Sequence[int], codes: np.ndarray) -> Block:
        """Codes `[*grid, levels]` as the tokenizer gives them, -1 where one is masked, with the words for them.

        Raises AnyglotError for codes of another shape, or out of their codebook.
        """
        codes, spec = np.asarray(codes, dtype=np.int64), self.modality.spec
        if codes.ndim != len(spec.axes) + 1 or codes.shape[-1] != len(spec.levels) or not codes.size:
            axes = ", ".join([*(axis.name for axis in spec.axes), f"{len(spec.levels)} levels"])
            raise AnyglotError(f"{spec.modality}: codes must be [{axes}], got shape {list(codes.shape)}")
        if (codes < -1).any() or (codes >= np.array(spec.levels)).any():
            raise AnyglotError(f"{spec.modality}: codes must be -1, or lie in codebooks of {list(spec.levels)}")
        starts = np.array([book.start for book in self.codebooks])
        ids = starts + factor(np.maximum(codes, 0), spec.levels, self.modality.factors)
        unknown = np.repeat(codes < 0, self.modality.factors, axis=-1)
        return Block(np.array(words[: self.config.max_words], dtype=np.int64), np.where(unknown, self.mask, ids))

    def codes(self, ids: np.ndarray) -> np.ndarray:
        """Codes `[*grid, levels]` of ids `[*grid, levels as they are written]`, none of them masked."""
        starts = np.array([book.start for book in self.codebooks])
        return unfactor(ids - starts, self.modality.spec.levels, self.modality.factors)

    def collate(self, blocks: Sequence[Block]) -> Batch:
        """Blocks of any grids and words as one batch, on this model's device."""
        device = self.embedding.weight.device
        longest = max(block.ids.size for block in blocks)
        shape, axes = (len(blocks), longest), len(self.code_place)
        words = np.zeros((len(blocks), max(len(block.words) for block in blocks)), np.int64)
        has_word, real = np.zeros(words.shape, bool), np.zeros(shape, bool)
        ids, levels, places = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros((*shape, axes), np.int64)
        for row, block in enumerate(blocks):
            size = block.ids.size
            words[row, : len(block.words)], has_word[row, : len(block.words)] = block.words, True
            ids[row, :size], real[row, :size] = block.ids.reshape(-1), True
            where = np.indices(block.ids.shape).reshape(block.ids.ndim, size)
            places[row, :size], levels[row, :size] = where[:-1].T, where[-1]
        found = (words, has_word, ids, places, levels, real)
        return Batch(*(torch.from_numpy(array).to(device) for array in found))

    def save(self, folder: Path, grid: Sequence[int]) -> None:
        """Write weights and shape into a directory. grid: what to write where nobody asks for another."""
        from safetensors.torch import save_file

        save_file(
            {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS
        )
        described = {"modality": self.modality.spec.modality, "grid": list(grid), "transformer": asdict(self.config)}
        write_json(folder / CONFIG, described | {"vocabulary": self.vocabulary.fingerprint})

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> tuple["MaskedTransformer", tuple[int, ...]]:
        """Read what `save` wrote: the model and its usual grid.

        Raises AnyglotError naming the folder, MismatchError if it was made with another vocabulary.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            described = json.loads((folder / CONFIG).read_text("utf-8"))
            vocabulary.require(described["vocabulary"], str(folder / WEIGHTS))
            model = cls(typed(MaskGITConfig, described["transformer"], CONFIG), vocabulary, described["modality"])
            model.load_state_dict(load_file(folder / WEIGHTS))
            return model.eval(), tuple(map(int, described["grid"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise AnyglotError(
                f"{folder}: its masked transformer cannot be loaded ({reason}); train it again"
            ) from error


def waves(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places `[...]`, of wavelengths from 2 pi up: fp32 `[..., width]`."""
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-log(LONGEST) / width))
    angles = places[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
