"""The levels of a code stack inside one position (`stream: depth`; RQ-Transformer, arXiv:2203.01941; Moshi's depth
transformer, arXiv:2410.00037).

Ids stay in the order of the `frame` stream. An id that is a code of a later level rides on the position of its cell's
first code: the language model sees one position a cell, the sum of its codes' embeddings, and says the first code of
the next one; a small transformer over levels says the others, one after the other, from the position before and the
codes so far. A row of 512 ids of four levels is 128 positions to the language model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json
from anyglot.lm.vocabulary import Vocabulary

WEIGHTS, CONFIG = "depth.safetensors", "depth.json"
STREAM = "depth"


@dataclass
class DepthConfig:
    """The transformer over levels. hidden: its width, 0 for half of the language model's."""

    hidden: int = 0
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if self.layers < 1 or self.heads < 1 or self.hidden % self.heads:
            raise ConfigError(
                f"model.depth: layers and heads of at least 1, hidden a multiple of heads; got {asdict(self)}"
            )


def has_depth(vocabulary: Vocabulary) -> bool:
    """Whether a modality's stream is `depth`, with more levels than one."""
    return any(modality.stream == STREAM and len(modality.levels) > 1 for modality in vocabulary.modalities)


def riders_after(vocabulary: Vocabulary) -> Tensor:
    """How many ids ride on the position of each id, int64 `[size]`: levels - 1 for the first codes of depth streams.

    Ids that ride themselves have -1.
    """
    found = torch.zeros(vocabulary.size, dtype=torch.int64)
    for modality in vocabulary.modalities:
        if modality.stream == STREAM:
            for level in range(len(modality.levels)):
                block = vocabulary.named_blocks[f"{modality.spec.modality}.{level}"]
                found[block.start : block.end] = len(modality.levels) - 1 if level == 0 else -1
    return found


class Folded(NamedTuple):
    """Packed rows with one position a cell.

    position: int64 `[rows, length]`, the folded position that each place belongs to (0 for padding).
    position_ids, document_ids: `[rows, folded]`, as the language model takes them; -1 where there is nothing.
    """

    position: Tensor
    position_ids: Tensor
    document_ids: Tensor


def fold(rides: Tensor, position_ids: Tensor, document_ids: Tensor) -> Folded:
    """Where each place of packed rows goes.

    Args:
        rides: bool `[rows, length]`. position_ids, document_ids: `[rows, length]`, of a packed batch.
    """
    real = document_ids >= 0
    heads = real & ~rides
    position = (heads.cumsum(1) - 1).clamp(min=0) * real
    folded = int(position.max()) + 1
    ridden = rides.long().cumsum(1)  # riders up to each place; a document begins with none
    begin = torch.arange(rides.shape[1], device=rides.device) - position_ids
    shifted = position_ids - (ridden - ridden.gather(1, begin.clamp(min=0)))
    positions = position_ids.new_zeros(len(rides), folded)
    documents = document_ids.new_full((len(rides), folded), -1)
    row, place = heads.nonzero(as_tuple=True)
    positions[row, position[row, place]] = shifted[row, place]
    documents[row, position[row, place]] = document_ids[row, place]
    return Folded(position, positions, documents)


class DepthTransformer(nn.Module):
    """Predicts the codes of a cell after its first.

    Args:
        hidden: width of the language model. levels: the most that a modality has.
    """

    def __init__(self, config: DepthConfig, hidden: int, levels: int) -> None:
        super().__init__()
        self.config, self.hidden, self.levels = config, hidden, levels
        width = config.hidden or hidden // 2
        if width % config.heads:
            raise ConfigError(f"model.depth.heads {config.heads} does not divide its width {width}")
        self.context = nn.Linear(hidden, width)
        self.code = nn.Linear(hidden, width, bias=False)
        self.level = nn.Parameter(torch.randn(levels - 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, hidden, bias=False)

    def forward(self, context: Tensor, codes: Tensor) -> Tensor:
        """Hidden states from which the language model's head reads the next level's code.

        Args:
            context: `[cells, hidden]`, the language model's state before each cell.
            codes: `[cells, steps, hidden]`, embeddings of the codes of levels 0 .. steps - 1.
        Returns:
            `[cells, steps, hidden]`: at step s what is known of level s + 1.
        """
        steps = codes.shape[1]
        x = self.context(context)[:, None] + self.code(codes) + self.level[:steps]
        unseen = torch.ones(steps, steps, dtype=torch.bool, device=codes.device).triu(1)
        return self.out(self.layers(x, mask=unseen))

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write weights and shape into a checkpoint directory.

        state: the weights, where the parameters do not hold them (ZeRO 3).
        """
        from safetensors.torch import save_file

        state = state or self.state_dict()
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS)
        write_json(folder / CONFIG, {"hidden": self.hidden, "levels": self.levels, "transformer": asdict(self.config)})

    @classmethod
    def load(cls, folder: Path) -> "DepthTransformer":
        """Read what `save` wrote. Raises AnyglotError naming the file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            shape = json.loads((folder / CONFIG).read_text("utf-8"))
            made = cls(typed(DepthConfig, shape["transformer"], CONFIG), shape["hidden"], shape["levels"])
            made.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise AnyglotError(
                f"{folder}: its depth transformer cannot be loaded ({reason}); export it again"
            ) from error
        return made


def build_depth(config: DepthConfig, vocabulary: Vocabulary, hidden: int, seed: int = 0) -> DepthTransformer | None:
    """The transformer over levels that a vocabulary needs, drawn from `seed`; None if no stream is depth."""
    if not has_depth(vocabulary):
        return None
    levels = [len(modality.levels) for modality in vocabulary.modalities if modality.stream == STREAM]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DepthTransformer(config, hidden, max(levels))


def fold_embeddings(embeddings: Tensor, folded: Folded, real: Tensor) -> Tensor:
    """Sum the embeddings of each cell's codes: `[rows, length, hidden]` -> `[rows, folded, hidden]`.

    real: bool `[rows, length]`, False for padding.
    """
    rows, width = folded.document_ids.shape
    row = torch.arange(rows, device=real.device)[:, None].expand_as(real)
    where = (row * width + folded.position)[real]
    summed = embeddings.new_zeros(rows * width, embeddings.shape[-1]).index_add(0, where, embeddings[real])
    return summed.view(rows, width, -1)


def next_states(hidden: Tensor, embeddings: Tensor, folded: Folded, rides: Tensor, depth: DepthTransformer) -> Tensor:
    """The state from which the head reads the id after each place, `[rows, length, hidden]`.

    That is the language model's own, but where the next id rides: there it is the depth transformer's, which knows the
    cell's codes up to this place and the position before the cell.

    Args:
        hidden: `[rows, folded, hidden]`. embeddings: `[rows, length, hidden]`. rides: bool `[rows, length]`.
    """
    length = rides.shape[1]
    at = folded.position[..., None].expand(-1, -1, hidden.shape[-1])
    states = hidden.gather(1, at)
    ridden = torch.zeros_like(rides)
    ridden[:, :-1] = ~rides[:, :-1] & rides[:, 1:]  # the first code of a cell with riders
    row, first = ridden.nonzero(as_tuple=True)
    if not len(row):
        return states + 0.0 * depth(hidden[:1, 0], embeddings[:1, :1]).sum()  # its weights take part in every step
    places = (first[:, None] + torch.arange(depth.levels, device=rides.device)).clamp(max=length - 1)
    steps = torch.arange(depth.levels - 1, device=rides.device)
    following = rides[row[:, None], places[:, 1:]] & (places[:, 1:] == first[:, None] + 1 + steps)
    following = following.long().cumprod(1).bool()  # [cells, levels - 1]: is there a code of level s + 1?
    context = hidden[row, folded.position[row, first] - 1]
    said = depth(context, embeddings[row[:, None], places[:, :-1]])
    cell, step = following.nonzero(as_tuple=True)
    return states.index_put((row[cell], places[cell, step]), said[cell, step].to(states.dtype))
