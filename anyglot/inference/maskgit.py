"""Write the codes of media in a few parallel steps, the surest first (MaskGIT, arXiv 2202.04200)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, floor, isfinite, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyglot.config import typed
from anyglot.data.documents import Part
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.inference.sampling import noise_keys, waits
from anyglot.lm.maskgit import CONFIG, Batch, Block, MaskedTransformer
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.text import TextTokenizer


@dataclass
class MaskGITSampling:
    """steps: forwards in which all codes are written; from twice as many as there are codes, it is one code a step.

    temperature: of drawing a code; 0 takes the likeliest. noise: how much chance there is at first in which of the
    drawn codes stay, falling linearly to none; 0: always the surest. guidance: how far the words are followed, 1 as
    the model does, which has also been trained without them. grid: of codes, such as [8, 8]; empty: the usual one.
    """

    steps: int = 12
    temperature: float = 1.0
    noise: float = 4.5
    guidance: float = 1.0
    grid: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.steps < 1 or any(length < 1 for length in self.grid):
            raise ConfigError(f"steps {self.steps} and the grid's lengths {self.grid} must be at least 1")
        for name in ("temperature", "noise", "guidance"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; it must be a number of at least 0")


class MaskGIT:
    """A masked transformer with all it needs to turn words into media. Make one with `load`.

    Raises MismatchError if the tokenizers are not the vocabulary's.
    """

    def __init__(
        self, model: MaskedTransformer, text: TextTokenizer, tokenizer: ModalityTokenizer, grid: Sequence[int] = ()
    ) -> None:
        model.vocabulary.check({TEXT: text.fingerprint, tokenizer.spec.modality: tokenizer.fingerprint})
        self.model, self.text, self.tokenizer = model.eval(), text, tokenizer
        self.modality = model.modality.spec.modality
        self.grid = tuple(grid) or tuple(axis.size for axis in model.modality.spec.axes)

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> "MaskGIT":
        """Load a directory as `stage: maskgit` writes it under `<out>/model`. Raises AnyglotError, MismatchError."""
        directory = Path(directory)
        model, grid = MaskedTransformer.load(directory, Vocabulary.load(directory))
        text = TextTokenizer.from_pretrained(directory / "tokenizers" / TEXT)
        tokenizer = load_tokenizer(directory / "tokenizers" / model.modality.spec.modality)
        if isinstance(tokenizer, torch.nn.Module):
            tokenizer.to(device)
        return cls(model.to(device), text, tokenizer, grid)

    def write(
        self, texts: Sequence[str], settings: MaskGITSampling | None = None, seed: int = 0,
        known: Sequence[np.ndarray] = (),
    ) -> list[Part]:  # fmt: skip
        """One medium for each text, all at once; text i draws from seed + i, whatever stands beside it.

        Args:
            known: for each text, codes `[*grid, levels]` that stay, -1 where one is to be written; else all are.
        Raises:
            AnyglotError: a grid or codes that this modality does not have.
        """
        settings = settings or MaskGITSampling()
        if known and len(known) != len(texts):
            raise AnyglotError(f"{len(texts)} texts, but known codes for {len(known)}")
        empty = np.full((*self._checked(settings.grid or self.grid), len(self.model.modality.spec.levels)), -1)
        begun = known or [empty] * len(texts)
        blocks = [self.model.block(self.text.encode(text), codes) for text, codes in zip(texts, begun, strict=True)]
        for block in blocks:
            self._checked(block.ids.shape[:-1])
        seeds = range(seed, seed + len(blocks))
        codes = [torch.from_numpy(self.model.codes(ids)) for ids in fill(self.model, blocks, seeds, settings)]
        made_by = self.tokenizer.fingerprint
        return [
            Part(self.modality, data=medium, codes=code.numpy(), tokenizer=made_by)
            for code, medium in zip(codes, self.tokenizer.decode(codes), strict=True)
        ]

    def _checked(self, grid: Sequence[int]) -> tuple[int, ...]:
        axes = self.model.modality.spec.axes
        fits = len(grid) == len(axes) and all(
            n == axis.size if axis.length == "fixed" else n <= axis.size for n, axis in zip(grid, axes, strict=True)
        )
        if not fits:
            most = ", ".join(f"{axis.name} {'' if axis.length == 'fixed' else 'up to '}{axis.size}" for axis in axes)
            raise MismatchError(f"{self.modality}: no grid {list(grid)}; its axes are: {most}")
        return tuple(grid)


@torch.no_grad()
def fill(
    model: MaskedTransformer, blocks: Sequence[Block], seeds: Sequence[int], settings: MaskGITSampling
) -> list[np.ndarray]:
    """The ids `[*grid, levels]` of every block, none of them masked any more.

    In every step a code is drawn for each masked position; the surest stay, so many that after step t of T a share of
    cos(pi / 2 * t / T) is masked (at least one stays).
    """
    if not blocks:
        return []
    batch = model.collate(blocks)
    masked = batch.ids == model.mask
    total = masked.sum(1)
    for step in range(settings.steps):
        if not masked.any():
            break
        drawn, sureness = _draw(model, batch, masked, seeds, step, settings)
        count = masked.sum(1)
        share = cos(pi / 2 * (step + 1) / settings.steps)
        left = torch.tensor([floor(share * n) for n in total.tolist()], device=count.device)
        stay = count - torch.minimum(left, (count - 1).clamp(min=0))
        rank = sureness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        settled = masked & (rank < stay[:, None])
        batch = batch._replace(ids=torch.where(settled, drawn, batch.ids))
        masked = masked & ~settled
    found = batch.ids.cpu().numpy()
    return [ids[: block.ids.size].reshape(block.ids.shape) for ids, block in zip(found, blocks, strict=True)]


def _draw(
    model: MaskedTransformer, batch: Batch, masked: Tensor, seeds: Sequence[int], step: int, settings: MaskGITSampling
) -> tuple[Tensor, Tensor]:
    """For every masked position an id, and how sure it is; `[batch, length]` both, minus infinity where none is masked.

    Sureness is the log-probability of what was drawn, and Gumbel noise that fades from step to step.
    """
    states = _states(model, batch, settings.guidance)
    row, place = masked.nonzero(as_tuple=True)
    keys = noise_keys(list(seeds), [step] * len(masked), masked.device)
    apart = place[:, None] * (model.mask + 1)  # every position has noise of its own
    drawn, sureness = batch.ids.clone(), torch.full(masked.shape, -torch.inf, device=masked.device)
    for level, book in enumerate(model.codebooks):
        mine = batch.levels[row, place] == level
        rows, places = row[mine], place[mine]
        logits = model.logits(states[0][rows, places], level)
        if len(states) == 2:
            base = model.logits(states[1][rows, places], level)
            logits = base + settings.guidance * (logits - base)
        choices = torch.arange(book.start, book.end, device=masked.device)
        scores = logits
        if settings.temperature:
            scores = logits / settings.temperature - waits(keys[rows], apart[mine] + choices).log()
        best = scores.argmax(1)
        drawn[rows, places] = choices[best]
        sureness[rows, places] = logits.log_softmax(1).gather(1, best[:, None])[:, 0]
    strength = settings.noise * (1 - (step + 1) / settings.steps)
    if strength:
        sureness[row, place] -= strength * waits(keys[row], apart + model.mask)[:, 0].log()
    return drawn, sureness


def _states(model: MaskedTransformer, batch: Batch, guidance: float) -> tuple[Tensor, ...]:
    """States of the codes given the words; where there is guidance, those without words too, of the same forward."""
    if guidance == 1:
        return (model(batch),)
    both = Batch(*(torch.cat([part, part]) for part in batch))
    wordless = torch.cat([batch.has_word, torch.zeros_like(batch.has_word)])
    return tuple(model(both._replace(has_word=wordless)).chunk(2))


def is_maskgit(directory: Path) -> bool:
    """Whether a directory holds a masked transformer, not a language model."""
    return (directory / CONFIG).is_file()


def generate(
    directory: Path, parts: Sequence[tuple[str, str]], to: str | None, out: Path, seed: int, overrides: Sequence[str]
) -> None:
    """`anyglot generate` with a masked transformer: write and name the one medium that words are turned into.

    Raises ConfigError for a prompt that is not text alone, or another modality than the model's.
    """
    from omegaconf import OmegaConf

    from anyglot.train.device import local_device

    mapping = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(mapping, dict)
    settings = typed(MaskGITSampling, {str(key): value for key, value in mapping.items()})
    for modality, _ in parts:
        if modality != TEXT:
            raise ConfigError(f"a masked transformer is told words, no {modality}; leave that part out")
    model = MaskGIT.load(directory, local_device())
    if to not in (None, model.modality):
        raise ConfigError(f"this model writes {model.modality}, no {to}; leave --to out")
    (part,) = model.write(["".join(text for _, text in parts)], settings, seed)
    path = out / f"00-{part.type}{model.tokenizer.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    model.tokenizer.write(part.data, path)
    print(f"{part.type}  {path}")
