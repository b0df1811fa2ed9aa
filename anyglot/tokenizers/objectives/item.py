"""What an item tokenizer is trained for: the embedding back (TIGER), and what LETTER and CoST add to that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.item import Item, ItemTokenizer, Reconstruction
from anyglot.tokenizers.quantizers.balanced import balanced_kmeans


@dataclass
class ItemObjectiveConfig:
    """reconstruction: weight of the squared error of the embedding.

    alignment: of LETTER's contrast between the quantized vector and the item's collaborative vector, against those of
    the batch; collaborative: the file of those (`vectors` [items, dim of the codes], in the order of the catalogue).
    diversity: of LETTER's pull of a code to a random one of its cluster, away from the others; clusters: of each
    codebook, of equal sizes, made anew every `recluster` steps. contrast: of CoST's between the decoded embedding and
    the item's own, against those of the batch. temperature: of the contrasts."""

    reconstruction: float = 1.0
    alignment: float = 0.0
    collaborative: str = ""
    diversity: float = 0.0
    clusters: int = 10
    recluster: int = 50
    contrast: float = 0.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if min(self.reconstruction, self.alignment, self.diversity, self.contrast) < 0 or self.temperature <= 0:
            raise ConfigError("weights must be 0 or more, temperature above 0")
        if bool(self.alignment) != bool(self.collaborative):
            raise ConfigError("alignment needs `collaborative`, a file of vectors, which nothing else uses")
        if self.clusters < 2 or self.recluster < 1:
            raise ConfigError("clusters must be 2 or more, recluster 1 or more")


@dataclass
class Batch:
    """Items to learn from."""

    items: list[Item]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Itself: the embeddings are the tokenizer's."""
        return self


class ItemObjective(nn.Module):
    """The loss of an item tokenizer. There is no second player."""

    discriminator: nn.Module | None = None
    clusters: Tensor

    def __init__(self, config: ItemObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.collaborative = _vectors(config.collaborative) if config.collaborative else None
        self.register_buffer("clusters", torch.zeros(0, 0, dtype=torch.int64))  # of each code, [levels, size]

    def generator_loss(
        self, model: ItemTokenizer, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise, its terms and the reconstruction."""
        c = self.config
        places = torch.tensor([model.place(item.id) for item in batch.items], device=model.device)
        made: Reconstruction = model(model.embeddings[places])
        terms = {"embedding": F.mse_loss(made.output, made.target)}
        loss = c.reconstruction * terms["embedding"]
        if c.contrast:
            terms["contrast"] = _contrast(made.output, made.target, places, c.temperature)
            loss = loss + c.contrast * terms["contrast"]
        if c.alignment:
            terms["alignment"] = self._alignment(model, made.quantized.vectors, places)
            loss = loss + c.alignment * terms["alignment"]
        if c.diversity and model.quantizer.ready:
            terms["diversity"] = self._diversity(model, made.quantized.codes, step)
            loss = loss + c.diversity * terms["diversity"]
        terms["quantizer"] = model.quantizer.loss(made.quantized)
        return loss + terms["quantizer"], {name: term.detach() for name, term in terms.items()}, made

    def discriminator_loss(
        self, batch: Batch, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """None: there is no discriminator."""
        return None

    def _alignment(self, model: ItemTokenizer, vectors: Tensor, places: Tensor) -> Tensor:
        """Cross-entropy of an item's own collaborative vector among those of the batch; one without any is left out."""
        assert self.collaborative is not None
        if self.collaborative.shape != (len(model.embeddings), vectors.shape[1]):
            raise ConfigError(
                f"{self.config.collaborative}: vectors {list(self.collaborative.shape)}, but the tokenizer learns from "
                f"{len(model.embeddings)} items and its codes have width {vectors.shape[1]}; make them for these"
            )
        wanted = self.collaborative.to(vectors.device)[places]
        known = wanted.any(1)
        return _contrast(vectors[known], wanted[known], places[known], self.config.temperature)

    def _diversity(self, model: ItemTokenizer, codes: Tensor, step: int) -> Tensor:
        """Cross-entropy of a random code of the same cluster among all others, by cosine, mean over levels."""
        books = [F.normalize(book, dim=1) for book in _learned(model)]
        if step % self.config.recluster == 0 or not len(self.clusters):
            found = [balanced_kmeans(book.detach().cpu(), self.config.clusters) for book in books]
            self.clusters = torch.stack(found).to(codes.device)
        losses = []
        for level, book in enumerate(books):
            used = codes[:, level]
            same = self.clusters[level][used][:, None] == self.clusters[level]  # [batch, size]
            same[torch.arange(len(used)), used] = False
            paired = same.any(1)  # a cluster of one code has nothing to pull it to
            if not paired.any():
                continue
            wanted = torch.multinomial(same[paired].float(), 1)[:, 0]
            scores = book[used[paired]] @ book.T / self.config.temperature
            scores = scores.scatter(1, used[paired][:, None], -torch.inf)
            losses.append(F.cross_entropy(scores, wanted))
        return torch.stack(losses).mean() if losses else codes.new_zeros((), dtype=torch.float32)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.clusters = torch.zeros_like(state[prefix + "clusters"])
        super()._load_from_state_dict(state, prefix, *rest)


def _contrast(vectors: Tensor, wanted: Tensor, places: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each vector's own among `wanted` [batch, width], by cosine; the item's other copies left out."""
    scores = F.normalize(vectors, dim=1) @ F.normalize(wanted, dim=1).T / temperature
    copies = (places[:, None] == places) & ~torch.eye(len(places), dtype=torch.bool, device=places.device)
    return F.cross_entropy(scores.masked_fill(copies, -torch.inf), torch.arange(len(places), device=places.device))


def _learned(model: ItemTokenizer) -> list[Tensor]:
    """The codebooks, with gradients. Raises ConfigError if none reaches them."""
    stack = getattr(model.quantizer, "stack", [model.quantizer])
    books = [level.codebook for level in stack if hasattr(level, "codebook")]
    if not books or not all(book.learns for book in books):
        raise ConfigError("diversity moves codes by its gradient: set `codebook: learned` in the quantizer's `inner`")
    return [book.vectors() for book in books]


def _vectors(path: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)["vectors"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"collaborative: {path} holds no `vectors` ({error}); `anyglot fetch movielens` makes it"
        ) from error


def crop(media: Sequence[Item], config: ItemObjectiveConfig, generator: np.random.Generator, batch_size: int) -> Batch:
    """A training batch: random items."""
    return Batch([media[index] for index in generator.integers(len(media), size=batch_size).tolist()])


def show(log: Any, step: int, model: ItemTokenizer, media: Sequence[Item], decoded: Sequence[Item]) -> None:
    """Write down what items come back as."""
    lines = [f"{item.text} -> {back.text}" for item, back in zip(media, decoded, strict=True)]
    log.words(step, "items", "\n\n".join(lines))


OBJECTIVE = ItemObjective
CONFIG = ItemObjectiveConfig
