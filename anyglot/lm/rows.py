"""Old rows and new rows of a model's embedding and head as two parameters, so that each is trained in its own way.

The ids of a vocabulary only ever grow at the end: a row matrix `[ids, hidden]` falls into old rows above and new ones
below. As parameters of their own, old rows can be frozen bit for bit without gradient or optimizer state, and new rows
have their own learning rate. `whole_state` puts them back together: checkpoints for others know nothing of this.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.lm.model import extend_model, initialise_codes
from anyglot.lm.vocabulary import Vocabulary

INITS = ("codebook", "mean", "random")
NEAR = 0.1  # spread of new rows about the mean row, in that of old rows: one as wide took likelihood from old ids


class SplitRows(nn.Module):
    """Rows `[old + new, hidden]` as two parameters; a head and an embedding that are tied share both."""

    def __init__(self, old_rows: nn.Parameter, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.old_rows, self.new_rows = old_rows, new_rows

    @property
    def weight(self) -> Tensor:
        """All rows as one tensor, a copy."""
        return torch.cat([self.old_rows, self.new_rows])


class SplitEmbedding(SplitRows):
    """An embedding of split rows: ids `[...]` -> vectors `[..., hidden]`."""

    def forward(self, ids: Tensor) -> Tensor:
        old = self.old_rows.shape[0]
        is_new = (ids >= old)[..., None]
        return torch.where(
            is_new,
            nn.functional.embedding((ids - old).clamp(min=0), self.new_rows),
            nn.functional.embedding(ids.clamp(max=old - 1), self.old_rows),
        )


class SplitHead(SplitRows):
    """An output head of split rows: hidden states `[..., hidden]` -> logits `[..., old + new]`."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden @ self.old_rows.T, hidden @ self.new_rows.T], -1)


def split_rows(model: Any, old: int) -> None:
    """Split a Hugging Face causal LM's embedding and head at id `old`, in place; tied ones stay tied.

    Raises ConfigError if there is no row on one side, or the rows are not all there is to embedding and head.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or head.bias is not None:
        raise ConfigError(
            f"new_rows: the embedding is a {type(embedding).__name__}, the head a {type(head).__name__}"
            f"{' with a bias' if getattr(head, 'bias', None) is not None else ''}; only a plain Embedding and a Linear "
            "without bias can be split: train all rows, without new_rows"
        )
    if not 0 < old < embedding.num_embeddings:
        raise ConfigError(f"new_rows: of {embedding.num_embeddings} rows none is new after {old}; extend the model")
    parts = _halves(embedding.weight, old)
    model.set_output_embeddings(SplitHead(*(parts if head.weight is embedding.weight else _halves(head.weight, old))))
    model.set_input_embeddings(SplitEmbedding(*parts))


def whole_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state dict that the model had before `split_rows`, on the CPU: what a checkpoint for others holds.

    state: the model's own, where its parameters do not hold it (ZeRO 3).
    """
    state = {name: value.detach().cpu() for name, value in (state or model.state_dict()).items()}
    joined: dict[int, Tensor] = {}  # one tensor where embedding and head are tied, as transformers expects
    for name, part in model.named_modules():
        if isinstance(part, SplitRows):
            halves = [state.pop(f"{name}.{half}") for half in ("old_rows", "new_rows")]
            state[f"{name}.weight"] = joined.setdefault(id(part.old_rows), torch.cat(halves))
    return state


@torch.no_grad()
def add_rows(
    model: Any,
    vocabulary: Vocabulary,
    old: int,
    init: str = "codebook",
    codebooks: Mapping[str, Sequence[Tensor]] | None = None,
    seed: int = 0,
) -> None:
    """Give a model rows for all ids of `vocabulary`, in place. Those below `old` and their logits stay, bit for bit.

    Args:
        init: "random": as a fresh model's. "mean": near the mean of the old rows, so that new ids are about as likely
            as an average old one (Hewitt, 2021). "codebook": as near, and codes alike whose codebook vectors are.
        codebooks: modality -> vectors `[size, dim]` of each level; those of modalities among the old ids are not used.
    """
    if init not in INITS:
        raise ConfigError(f"new_rows.init {init!r} is unknown; valid: {', '.join(INITS)}")
    extend_model(model, old, vocabulary.size, seed)
    if init == "random":
        return
    layers = {id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    middles = {}
    for key, weight in layers.items():  # one, if the head is the embedding
        middles[key] = weight[:old].float().mean(0)
        weight[old:] *= NEAR * (weight[:old] - middles[key]).std() / weight[old:].std()
    if init == "codebook":
        new = {name: of for name, of in (codebooks or {}).items() if vocabulary.opener(name) >= old}
        initialise_codes(model, vocabulary, new, seed)
    for key, weight in layers.items():
        weight[old:] += middles[key].to(weight)


def _halves(weight: Tensor, old: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(weight.detach()[:old].clone()), nn.Parameter(weight.detach()[old:].clone())
