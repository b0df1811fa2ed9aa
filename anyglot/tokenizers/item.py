"""Item tokenizer: things to recommend as semantic IDs, from the embeddings of their texts (TIGER, arXiv:2305.05065).

An autoencoder with a residual quantizer in between (RQ-VAE), or any quantizer fitted to the embeddings themselves
(residual k-means). After training, `finish` fixes which codes each item of the catalogue has: unique ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.files import write_json, write_text
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.mlp import MLP
from anyglot.tokenizers.networks.sentences import WIDTH, embed, embed_one
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from anyglot.tokenizers.semantic_ids import buckets, reassigned, with_digit
from anyglot.tokenizers.spec import CodeSpec


@dataclass(frozen=True)
class Item:
    """Something to recommend. id: unique in a catalogue. text: what it is, in words."""

    id: str
    text: str

    def __len__(self) -> int:
        return len(self.text)


@dataclass
class ItemConfig:
    """widths: of the encoder's layers, the last that of the codes; empty: embeddings are quantized as they are.

    quantizer: {"type": ..., and its fields}. collisions: what items with equal codes get: a further level with a
    "digit", other codes of the last level by "sinkhorn", or "none", and share them. room: digits that remain for new
    items of the fullest bucket. blur: of Sinkhorn, in units of the mean cost. tokens: of a text that are embedded;
    max_text: characters, longer texts are refused."""

    widths: list[int] = field(default_factory=lambda: [512, 256, 128, 32])
    quantizer: dict[str, Any] = field(default_factory=dict)
    collisions: Literal["digit", "sinkhorn", "none"] = "digit"
    room: int = 8
    blur: float = 0.05
    tokens: int = 64
    max_text: int = 4000

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths) or min(self.room, self.tokens, self.max_text) < 1 or self.blur <= 0:
            raise ConfigError("widths, room, tokens and max_text must be 1 or more, blur above 0")


@dataclass
class Reconstruction:
    """output: embeddings `[batch, 384]`, normalised as `target` is. quantized: of the latents `[batch, dim]`."""

    output: Tensor
    target: Tensor
    quantized: Quantized


class ItemTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for items; as a module, the autoencoder that training sees.

    The catalogue lies in buffers: `embeddings` [items, 384], `names` (JSON, UTF-8), and from `finish` on `table`, codes
    int64 [items, levels]. Until then items have the codes of the quantizer, and codes mean the item whose embedding is
    nearest to what they decode to.
    """

    modality: ClassVar[str] = "item"
    config_class: ClassVar[type] = ItemConfig
    config: ItemConfig
    suffix: ClassVar[str] = ".json"
    preview_suffix: ClassVar[str] = ".txt"
    inline: ClassVar[bool] = True
    mean: Tensor
    scale: Tensor
    embeddings: Tensor
    names: Tensor
    table: Tensor
    digits: Tensor

    def __init__(self, config: ItemConfig) -> None:
        super().__init__(config)
        dim = config.widths[-1] if config.widths else WIDTH
        self.encoder: nn.Module = MLP([WIDTH, *config.widths]) if config.widths else nn.Identity()
        self.quantizer = quantizers.build(config.quantizer, dim, "quantizer")
        self.decoder = MLP([*config.widths[::-1], WIDTH] if config.widths else [WIDTH, WIDTH])
        if isinstance(self.quantizer, FittedQuantizer) and config.widths:
            raise ConfigError(
                f"quantizer: {config.quantizer['type']!r} is fitted before training, to embeddings as they are; "
                "set widths to [], or take a quantizer that learns, such as 'residual'"
            )
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("embeddings", torch.zeros(0, WIDTH))
        self.register_buffer("names", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("table", torch.zeros(0, 0, dtype=torch.int64))
        self.register_buffer("digits", torch.tensor(config.room))  # size of the level that tells colliding items apart
        self._catalogue: list[Item] = []
        self._place: dict[str, int] = {}
        self._of: dict[tuple[int, ...], list[int]] = {}

    # ------------------------------------------------------------------ the catalogue

    @property
    def catalogue(self) -> list[Item]:
        """The items that it knows, in the order of `table`."""
        if len(self._catalogue) != len(self.embeddings):
            items = [Item(*pair) for pair in json.loads(bytes(self.names.cpu().tolist()))]
            self._place = {item.id: index for index, item in enumerate(items)}
            self._of = buckets(self.table)
            self._catalogue = items  # last: another thread that finds it finds the others, too
        return self._catalogue

    @property
    def spec(self) -> CodeSpec:
        """No axes: an item is one stack of codes, the last one the digit if there is one."""
        digit = (int(self.digits),) if self.config.collisions == "digit" else ()
        return CodeSpec("item", (*self.quantizer.levels, *digit), ())

    def begin(self, media: Sequence[Item]) -> None:
        """Embed the catalogue, normalise it, and fit the quantizer if it is one that is fitted.

        Raises MediaError for an id that occurs twice with different texts.
        """
        items: dict[str, Item] = {}
        for index in range(len(media)):
            item = self._checked(media[index])
            if items.setdefault(item.id, item) != item:
                raise MediaError(f"item {item.id!r} occurs twice, with different texts; keep one of them")
        self._fix(self.table.new_zeros(0, 0))  # codes of a tokenizer that training starts from are not these items'
        self._know(list(items.values()), embed([item.text for item in items.values()], self.config.tokens))
        self.mean.copy_(self.embeddings.mean(0))
        self.scale.copy_((self.embeddings - self.mean).square().mean().sqrt().clamp(min=1e-6))
        if isinstance(self.quantizer, FittedQuantizer):
            self.quantizer.fit(self.normalised(self.embeddings))

    @torch.no_grad()
    def finish(self, media: Sequence[Item] = ()) -> None:
        """Fix the codes of the catalogue. Raises AnyglotError if they cannot be made unique as the config says."""
        latents = self.encoder(self.normalised(self.embeddings))
        codes = self.quantizer.encode(latents).cpu()
        if self.config.collisions == "sinkhorn":
            codes = reassigned(codes, lambda members: self.costs(latents, codes, members), self.config.blur)
        if self.config.collisions == "digit":
            codes = with_digit(codes)
            self.digits.fill_(int(codes[:, -1].max()) + 1 + self.config.room)
        self._fix(codes)

    @torch.no_grad()
    def add(self, media: Sequence[Item]) -> None:
        """Take new items into the catalogue. The codes of the others stay, so models trained before still go with it.

        Raises MediaError for an id that it has, or when no codes are left for a new item; AnyglotError before `finish`.
        """
        if not len(self.table):
            raise AnyglotError("the catalogue has no fixed codes yet; train the tokenizer to its end")
        for item in media:
            if self.place(item.id) is not None:
                raise MediaError(f"item {item.id!r} is in the catalogue already; give a new one another id")
            (codes,) = self.encode([item])
            table = torch.cat([self.table, codes[None].to(self.table.device)])
            self._know([*self.catalogue, item], torch.cat([self.embeddings, self.embedding_of(item)[None]]))
            self._fix(table)

    def place(self, item: str) -> int | None:
        """Where an id is in the catalogue, None if it is new."""
        return self._place.get(item) if self.catalogue else None

    def items_of(self, codes: Sequence[int]) -> list[Item]:
        """All items of the catalogue that have these codes; more than one only without a treatment of collisions."""
        return [self.catalogue[index] for index in self._of.get(tuple(codes), [])] if self.catalogue else []

    def embedding_of(self, item: Item) -> Tensor:
        """The embedding [384] of an item's text, as it is."""
        place = self.place(item.id)
        return self.embeddings[place] if place is not None else embed_one(item.text, self.config.tokens).to(self.device)

    # ------------------------------------------------------------------ the autoencoder

    def forward(self, embeddings: Tensor) -> Reconstruction:
        """Embeddings `[batch, 384]` as they are."""
        target = self.normalised(embeddings)
        quantized = self.quantizer(self.encoder(target).float())
        return Reconstruction(self.decoder(quantized.vectors).float(), target, quantized)

    def normalised(self, embeddings: Tensor) -> Tensor:
        """Zero mean, and unit variance over all channels together."""
        return (embeddings - self.mean) / self.scale

    # ------------------------------------------------------------------ items to codes and back

    @torch.no_grad()
    def encode(self, media: Sequence[Item]) -> list[Tensor]:
        """Items to codes `[levels]`, on the CPU. One that is not in the catalogue gets those that `add` would give it.

        Raises MediaError if no codes are left for it, or its id is known with another text.
        """
        places = [self.place(self._checked(item).id) for item in media]
        for item, place in zip(media, places, strict=True):
            if place is not None and self.catalogue[place] != item:
                raise MediaError(f"item {item.id!r} has another text in the catalogue: {self.catalogue[place].text!r}")
        new = [index for index, place in enumerate(places) if place is None or not len(self.table)]
        found = dict(zip(new, self._new_codes([media[index] for index in new]), strict=True)) if new else {}
        return [found[i] if i in found else self.table[places[i]].cpu().clone() for i in range(len(media))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor]) -> list[Item]:
        """Codes `[levels]` to items; of several that share them, the first. Raises MediaError if no item has them."""
        items = []
        for code in codes:
            if code.shape != (len(self.spec.levels),):
                raise MediaError(f"codes of an item must be [{len(self.spec.levels)}], got {list(code.shape)}")
            if not len(self.table):
                items.append(self._nearest(code))
                continue
            of_code = self.items_of(code.tolist())
            if not of_code:
                raise MediaError(f"no item has the codes {code.tolist()}; generate with beams over the catalogue's")
            items.append(of_code[0])
        return items

    def read(self, source: str | Path | bytes) -> Item:
        """The id of an item of the catalogue, or `{"id", "text"}`; a file that holds one, or its bytes.

        Raises MediaError for an unknown id, or an item without id or text.
        """
        name = "item" if isinstance(source, bytes) else str(source)
        try:
            text = (source if isinstance(source, bytes) else Path(source).read_bytes()).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(f"{name}: cannot be read ({error}); check the file") from error
        if not text.startswith("{"):
            place = self.place(text)
            if place is None:
                known = f"the {len(self.catalogue)} of the catalogue" if len(self.embeddings) else "known yet"
                raise MediaError(f'{name}: id {text[:80]!r} is not {known}; a new item is {{"id": ..., "text": ...}}')
            return self.catalogue[place]
        try:
            value = json.loads(text)
            item = Item(value["id"], value["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise MediaError(f'{name}: {text[:80]!r} is not {{"id": ..., "text": ...}}') from error
        return self._checked(item)

    def write(self, media: Item, path: str | Path) -> None:
        """Write an item as JSON, atomically."""
        write_json(path, {"id": media.id, "text": media.text})

    def preview(self, media: Item, path: str | Path) -> None:
        """Write what the item is, in words."""
        write_text(path, f"{media.text}\n")

    def known_codes(self) -> Tensor | None:
        """Those of the catalogue, `[items, levels]`; None before `finish`, when all codes mean the nearest item."""
        return self.table.cpu() if len(self.table) else None

    def codebooks(self) -> list[Tensor]:
        """The vectors of every level's codes; digits, which are alike in nothing, are orthogonal."""
        digits = [torch.eye(size, device=self.device) for size in self.spec.levels[len(self.quantizer.levels) :]]
        return [*super().codebooks(), *digits]

    # ------------------------------------------------------------------ steps of the above

    def _checked(self, item: Item) -> Item:
        if not isinstance(item.id, str) or not item.id or not isinstance(item.text, str) or not item.text.strip():
            raise MediaError(f"item {item.id!r}: has no id or no text to embed; give it one, or leave it out")
        if len(item.text) > self.config.max_text:
            raise MediaError(
                f"item {item.id!r}: text of {len(item.text)} characters, more than max_text={self.config.max_text}; "
                "shorten it or raise it"
            )
        return item

    def _know(self, items: list[Item], embeddings: Tensor) -> None:
        names = json.dumps([[item.id, item.text] for item in items], ensure_ascii=False).encode()
        self.names = torch.frombuffer(bytearray(names), dtype=torch.uint8).to(self.device)
        self.embeddings = embeddings.to(self.device)
        self._catalogue = []

    def _fix(self, table: Tensor) -> None:
        self.table = table.to(self.device)
        self._catalogue = []

    def costs(self, latents: Tensor, codes: Tensor, members: list[int]) -> Tensor:
        """Squared distances [members, size] to the codes that items share with each last one."""
        size = self.quantizer.levels[-1]
        candidates = codes[members[:1]].repeat(size, 1)
        candidates[:, -1] = torch.arange(size)
        return self.quantizer.distances(latents[members], candidates.to(latents.device)).cpu()

    def _new_codes(self, items: Sequence[Item]) -> list[Tensor]:
        """Codes of items that the table does not have: those of the quantizer, the last one free."""
        latents = self.encoder(self.normalised(torch.stack([self.embedding_of(item) for item in items])))
        codes = self.quantizer.encode(latents).cpu()
        if self.config.collisions == "digit":
            codes = torch.cat([codes, torch.zeros(len(codes), 1, dtype=torch.int64)], 1)
        if len(self.table) and self.config.collisions != "none":
            for index, item in enumerate(items):
                codes[index, -1] = self._free(item, codes, latents, index)
        return list(codes)

    def _free(self, item: Item, codes: Tensor, latents: Tensor, index: int) -> int:
        """The best last code under the item's first ones that no item has."""
        prefix = tuple(codes[index, :-1].tolist())
        size = self.spec.levels[-1]
        order = list(range(size))
        if self.config.collisions == "sinkhorn":
            order = self.costs(latents, codes, [index])[0].argsort(stable=True).tolist()
        for code in order:
            if not self.items_of((*prefix, code)):
                return int(code)
        raise MediaError(
            f"item {item.id!r}: all {size} codes after {list(prefix)} are taken; train the tokenizer anew, with more "
            "`room` or larger codebooks"
        )

    def _nearest(self, code: Tensor) -> Item:
        levels = len(self.quantizer.levels)
        output = self.decoder(self.quantizer.decode(code[None, :levels].to(self.device)))
        return self.catalogue[int(torch.cdist(output, self.normalised(self.embeddings)).argmin())]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("embeddings", "names", "table"):  # as large as the catalogue that was saved
            stored = state.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.mean.device))
        super()._load_from_state_dict(state, prefix, *rest)
        self._catalogue = []


TOKENIZER = ItemTokenizer
