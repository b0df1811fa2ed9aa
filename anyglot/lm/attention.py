"""Attention in packed rows: a token sees itself and what precedes it in its own document, and nothing else.

Reset positions alone leak across documents in transformers, so every backend is told explicitly where documents lie:
`sdpa` by a mask, `flex` by blocks of places, `flash` by the places where documents begin.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import AnyglotError, ConfigError

OURS = "anyglot"  # our attention function's name in transformers
BLOCK = 128  # places a side of FlexAttention's blocks
FOREIGN = ("softcap", "s_aux", "position_bias")  # what some architectures add to scores, and no kernel here knows

Kernel = Callable[[Tensor, Tensor, Tensor, float | None, float], Tensor]
"""(query `[rows, heads, length, head_dim]`, key and value, whose heads may be fewer, scale of the scores, dropout) ->
`[rows, length, heads, head_dim]`."""


class SharedRows(Protocol):
    """Rows of which this rank holds a part of the places, and other ranks the rest."""

    def whole(self, part: Tensor) -> Tensor:
        """`[rows, part]` of every rank -> `[rows, length]`."""

    def attend(
        self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """What the kernel gives on whole rows, at this rank's places: its shapes, with `part` for `length`."""


@dataclass(frozen=True)
class Attention:
    """How a language model attends.

    backend: "sdpa" (torch's own, with a mask of `[rows, 1, length, length]`), "flex" (FlexAttention) or "flash", whose
    memory grows with the length alone. shared: what spreads rows over ranks, if anything does.
    """

    backend: str = "sdpa"
    shared: SharedRows | None = None

    def install(self, model: Any) -> None:
        """Make a Hugging Face model attend so. Where it generates, with masks of its own, nothing changes."""
        if self.by_mask:
            return
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(OURS, _attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(OURS, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])  # where it generates
        model.set_attn_implementation(OURS)
        if model.config._attn_implementation != OURS:
            raise ConfigError(f"{type(model).__name__} takes no attention but its own; set attention=sdpa")

    def hidden_states(self, model: Any, inputs: Tensor, position_ids: Tensor, document_ids: Tensor) -> Tensor:
        """Hidden states `[rows, length, hidden]` of packed rows; every argument is `[rows, length]`.

        inputs: ids, or their embeddings `[rows, length, hidden]`.
        document_ids: one number for the places of a document, which are neighbours; padding has one of its own.
        Raises ConfigError if the architecture attends otherwise, or does not tell its layers of documents.
        """
        if self.shared is not None:
            document_ids = self.shared.whole(document_ids)
        _check_window(model.config.get_text_config(), document_ids.shape[1])
        packed: _Packed | None = None
        arguments: dict[str, Any] = {  # so that no mask is made
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=document_ids.device)
        }
        if self.by_mask:
            arguments["attention_mask"] = additive_mask(document_ids, model.dtype)
        else:
            packed = _Packed(KERNELS[self.backend](document_ids, model.dtype), self.shared)
            arguments["packed"] = packed
        decoder = model.get_decoder()
        arguments["input_ids" if inputs.ndim == 2 else "inputs_embeds"] = inputs
        output = decoder(position_ids=position_ids, use_cache=False, **arguments)
        if packed is not None and not packed.used:
            raise ConfigError(f"{type(decoder).__name__} does not tell its layers of documents; set attention=sdpa")
        return output.last_hidden_state

    @property
    def by_mask(self) -> bool:
        """Whether a mask is all that the model needs: every architecture takes one."""
        return self.backend == "sdpa" and self.shared is None


@dataclass
class _Packed:
    """What the layers of one forward pass are handed. used: a layer did use it."""

    kernel: Kernel
    shared: SharedRows | None
    used: bool = False


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: _Packed | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: in packed rows where it is told of them, else sdpa's."""
    if packed is None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)
    if foreign := [name for name in FOREIGN if options.get(name) is not None]:
        raise ConfigError(f"{type(module).__name__} attends with {foreign[0]}; set attention=sdpa, sequence_parallel=1")
    packed.used = True
    if packed.shared is not None:
        return packed.shared.attend(packed.kernel, query, key, value, scaling, dropout), None
    return packed.kernel(query, key, value, scaling, dropout).contiguous(), None


def window_of(config: Any) -> tuple[str, int] | None:
    """The fewest ids that a layer sees at once, and what a Hugging Face config calls them; None if all see all."""
    layers = getattr(config, "layer_types", None) or ["sliding_attention", "chunked_attention"]
    kinds = (("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size"))
    found = [(name, int(getattr(config, name, None) or 0)) for kind, name in kinds if kind in layers]
    return min(((name, size) for name, size in found if size), key=lambda window: window[1], default=None)


def _check_window(config: Any, length: int) -> None:
    """Raise ConfigError if layers see less than a row: what is told here of documents would let them see all of it."""
    window = window_of(config)
    if window and window[1] < length:
        raise ConfigError(f"{config.model_type} has {window[0]} {window[1]}: rows must not be longer; set data.length")


# ---------------------------------------------------------------------- sdpa: a mask
def block_mask(document_ids: Tensor) -> Tensor:
    """Who may attend to whom in packed rows: causal, and only within one's own document.

    Args:
        document_ids: `[rows, length]`; padding has an id of its own.
    Returns:
        bool `[rows, 1, length, length]`, True where the query (third axis) sees the key (fourth).
    """
    length = document_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return (same & causal)[:, None]


def additive_mask(document_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores, `[rows, 1, length, length]`: 0 where a query sees a key, minus infinity elsewhere.

    One for all layers: sdpa makes one from a bool mask in every layer, and keeps each for the backward pass.
    """
    hidden = ~block_mask(document_ids)
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _sdpa(document_ids: Tensor, dtype: torch.dtype) -> Kernel:
    mask = additive_mask(document_ids, dtype)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:  # with a mask only sdpa's slowest kernel takes fewer keys than queries
            key, value = (heads.repeat_interleave(groups, 1) for heads in (key, value))
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scale)
        return attended.transpose(1, 2)

    return attend


# ---------------------------------------------------------------------- flex: blocks of places
def sparse_blocks(document_ids: Tensor) -> Any:
    """FlexAttention's `BlockMask` of packed rows `[rows, length]`, without a mask of `[length, length]` on the way.

    Documents are numbered as they follow in a row, so the first and last number in a block say which blocks share one.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = document_ids.shape[1]
    number = _begins(document_ids).cumsum(1)
    number = F.pad(number, (0, -length % BLOCK), value=length + 1)  # no document: the last block is not a whole one
    first, last = number[:, ::BLOCK], number[:, BLOCK - 1 :: BLOCK]  # [rows, blocks]
    blocks = torch.arange(first.shape[1], device=number.device)
    earlier = blocks[:, None] > blocks  # [queries, keys], as all below
    shared = earlier & (last[:, None, :] >= first[:, :, None])
    whole = (
        earlier & (first[:, None, :] == last[:, :, None]) & (first == last)[:, None, :] & (first == last)[:, :, None]
    )
    partial = (shared & ~whole) | (blocks[:, None] == blocks)

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (number[row, query] == number[row, key])

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool `[rows, queries, keys]` -> how many key blocks each query block has, and which, those first: int32."""
    which = blocks.to(torch.int32).argsort(stable=True, descending=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], which.to(torch.int32)[:, None]


@cache
def _flex_attention(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)  # on a CPU it is for tests


def _flex(document_ids: Tensor, _dtype: torch.dtype) -> Kernel:
    blocks = sparse_blocks(document_ids)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float) -> Tensor:
        _refuse_dropout("flex", dropout)
        flex_attention = _flex_attention(query.device.type)
        return flex_attention(query, key, value, block_mask=blocks, scale=scale, enable_gqa=True).transpose(1, 2)

    return attend


# ---------------------------------------------------------------------- flash: where documents begin
def boundaries(document_ids: Tensor) -> tuple[Tensor, int]:
    """Where documents begin in rows laid end to end.

    Args:
        document_ids: `[rows, length]`; a document ends where its row does.
    Returns:
        int32 `[documents + 1]`, the last of them the number of places; and the length of the longest document.
    """
    begins = _begins(document_ids).flatten().nonzero().squeeze(1)
    starts = F.pad(begins, (0, 1), value=document_ids.numel()).to(torch.int32)
    return starts, int(starts.diff().max())


def _begins(document_ids: Tensor) -> Tensor:
    """bool `[rows, length]`: where a document begins in its row."""
    return F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)


@cache
def flash_function(device: str) -> tuple[str, Callable[..., Tensor]] | None:
    """The flash attention for a type of device, by name: of flash-attn where that is installed, else of torch.

    It takes query, key and value `[places, heads, head_dim]`, `boundaries` and the scale. None: torch is before 2.12.
    """
    if device == "cpu":
        return "torch, document by document", _one_by_one
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        from torch.nn.attention.varlen import varlen_attn

        if "enable_gqa" not in inspect.signature(varlen_attn).parameters:
            return None

        def of_torch(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: Any) -> Tensor:
            fewer = query.shape[1] != key.shape[1]
            causal = (-1, 0)  # a window over all before, and none after
            places = (starts, starts, longest, longest)
            attended = varlen_attn(query, key, value, *places, scale=scale, window_size=causal, enable_gqa=fewer)
            return cast(Tensor, attended)

        return "torch", of_torch

    def of_package(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: Any) -> Tensor:
        places = (starts, starts, longest, longest)
        return flash_attn_varlen_func(query, key, value, *places, softmax_scale=scale, causal=True)

    return "flash-attn", of_package


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _longest: int, scale: Any) -> Tensor:
    """On a CPU torch's flash attention takes whole tensors only: it is called for every document."""
    groups, lengths = query.shape[1] // key.shape[1], starts.diff().tolist()
    if groups > 1:
        key, value = (heads.repeat_interleave(groups, 1) for heads in (key, value))
    parts = (torch.split(heads.transpose(0, 1)[None], lengths, 2) for heads in (query, key, value))
    attended = [  # of each document, [1, heads, places, head_dim]
        F.scaled_dot_product_attention(own, its_keys, its_values, is_causal=True, scale=scale)
        for own, its_keys, its_values in zip(*parts, strict=True)
    ]
    return torch.cat(attended, 2)[0].transpose(0, 1)


def _flash(document_ids: Tensor, _dtype: torch.dtype) -> Kernel:
    found = flash_function(document_ids.device.type)
    if found is None:
        raise AnyglotError("flash attention needs torch 2.12, or flash-attn; set attention=sdpa")
    flash = found[1]
    starts, longest = boundaries(document_ids)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float) -> Tensor:
        _refuse_dropout("flash", dropout)
        query, key, value = (heads.transpose(1, 2).flatten(0, 1) for heads in (query, key, value))
        return flash(query, key, value, starts, longest, scale).view(*document_ids.shape, *query.shape[1:])

    return attend


def _refuse_dropout(backend: str, dropout: float) -> None:
    if dropout:
        raise ConfigError(f"attention={backend} has no dropout; set model.attention_dropout=0, or attention=sdpa")


KERNELS: dict[str, Callable[[Tensor, torch.dtype], Kernel]] = {"sdpa": _sdpa, "flex": _flex, "flash": _flash}
