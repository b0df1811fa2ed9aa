"""The decoder-only model over the token stream: any Hugging Face causal LM, seen as hidden states and a head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.lm.architectures import ADDED, causal_lm, check_logits, softcap_of
from anyglot.lm.attention import Attention
from anyglot.lm.depth import DepthConfig, DepthTransformer, fold, fold_embeddings, next_states
from anyglot.lm.loss import BlockwiseCrossEntropy, TokenLoss
from anyglot.lm.vocabulary import Vocabulary

OWN = 0.3  # share of the variance of a code's first embedding that is not its codebook vector's


@dataclass
class ModelConfig:
    """A model (RMSNorm, RoPE, QK-norm, SwiGLU, grouped-query attention), trained from scratch.

    hidden: width. intermediate: width inside the feed-forward layer, 0 for 8/3 of `hidden` rounded up to 64.
    dropout: of embeddings and of what each attention and feed-forward layer adds; a checkpoint does not keep it.
    qk_norm, norm, logit_softcap: switches that keep training stable; they choose the architecture (`architectures.py`),
        as they are here Qwen3. qk_norm: queries and keys are normalised. norm: where layers normalise, what they read
        ("pre"), what they give ("post") or both ("sandwich"). logit_softcap: c bends logits to c tanh(logit / c).
    tie: the output head is the embedding. pad_vocabulary_to: round the number of rows up to a multiple.
    pretrained: a Hugging Face checkpoint directory to start from instead; the shape fields are then unused, dropout
        and the switches are refused.
    depth: the transformer over levels, where a modality's stream is `depth`.
    """

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 0
    max_length: int = 4096
    rope_theta: float = 10_000.0
    attention_dropout: float = 0.0
    dropout: float = 0.0
    qk_norm: bool = True
    norm: str = "pre"
    logit_softcap: float = 0.0
    tie: bool = True
    pad_vocabulary_to: int = 64
    pretrained: str = ""
    depth: DepthConfig = field(default_factory=DepthConfig)


def build_model(config: ModelConfig, vocabulary_size: int, seed: int = 0, filled: bool = True) -> Any:
    """A `PreTrainedModel` in fp32 with at least `vocabulary_size` rows, its weights drawn from `seed`.

    filled: False leaves the weights of `config.pretrained` unread: the shape alone is wanted.
    """
    import transformers

    if config.pretrained:
        if config.dropout or config.attention_dropout:
            raise ConfigError(
                "model.dropout and model.attention_dropout are of models from scratch; set both to 0, or in the "
                f"config.json of model.pretrained ({config.pretrained}) what its architecture calls them"
            )
        if not config.qk_norm or config.norm != "pre" or config.logit_softcap:
            raise ConfigError(
                "model.qk_norm, model.norm and model.logit_softcap are of models from scratch, and settled by "
                f"model.pretrained ({config.pretrained}); leave them out"
            )
        if not Path(config.pretrained, "config.json").is_file():
            raise ConfigError(
                f"model.pretrained: {config.pretrained} holds no config.json; give a checkpoint directory"
            )
        auto = transformers.AutoModelForCausalLM
        if filled:
            model = auto.from_pretrained(config.pretrained, dtype=torch.float32)
            check_logits(model, f"model.pretrained: {config.pretrained}")
        else:
            shape = transformers.AutoConfig.from_pretrained(config.pretrained)
            model = auto.from_config(shape, dtype=torch.float32)
            model.tie_weights()  # as below
        if model.get_input_embeddings().weight.shape[0] < vocabulary_size:
            raise ConfigError(
                f"model.pretrained: {config.pretrained} has {model.get_input_embeddings().weight.shape[0]} rows, "
                f"the vocabulary {vocabulary_size}; extend the checkpoint first"
            )
        return model
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"model.dropout: a share of 0 to 1, got {config.dropout}")
    if config.hidden % config.heads or config.heads % config.key_value_heads:
        raise ConfigError(
            f"model.hidden {config.hidden} must be a multiple of model.heads {config.heads}, "
            f"and that of model.key_value_heads {config.key_value_heads}"
        )
    rows = -(-vocabulary_size // config.pad_vocabulary_to) * config.pad_vocabulary_to
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = causal_lm(config, rows)
    model.tie_weights()  # which is left out where weights are not drawn, see `filled_by_first_rank`
    if config.dropout:
        added = [getattr(block, name) for block in model.model.layers for name in ADDED[config.norm]]
        for module in (model.model.embed_tokens, *added):
            module.register_forward_hook(_Dropout(config.dropout))
    return model


class _Dropout:
    """A hook that drops from what a layer gives in training: these models have no dropout but that of attention."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # attention: what it gives, and its weights
            return (self(module, _, output[0]), *output[1:])
        return nn.functional.dropout(output, self.share, module.training)


@torch.no_grad()
def extend_model(model: Any, old_size: int, new_size: int, seed: int = 0, multiple: int = 64) -> None:
    """Give a model a larger vocabulary, in place: the embeddings and logits of the ids below `old_size` stay.

    old_size, new_size: of the vocabularies, which may be fewer than the rows. Rows from `old_size` on, padding until
    now, are drawn anew from `seed` as a fresh model's are. multiple: the number of rows is rounded up to one.
    Raises ConfigError if the vocabulary shrinks.
    """
    if not 0 < old_size <= new_size:
        raise ConfigError(f"a vocabulary of {old_size} can only be extended, not cut to {new_size}")
    rows = max(model.get_input_embeddings().weight.shape[0], -(-new_size // multiple) * multiple)
    model.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in weights.values():  # one, if the head is the embedding
        fresh = torch.randn(rows - old_size, weight.shape[1], generator=generator) * model.config.initializer_range
        weight[old_size:] = fresh.to(weight)


@torch.no_grad()
def initialise_codes(model: Any, vocabulary: Vocabulary, codebooks: Mapping[str, Sequence[Tensor]], seed: int) -> None:
    """Begin the embeddings of codes as a random projection of their codebook vectors, so that like codes begin alike.

    The size stays that of the model's own initialisation; `OWN` of each row remains its own.

    Args:
        codebooks: modality -> vectors `[size, dim]` of each level. Sub-codes have no vectors of their own: modalities
            whose codes are written as several are left as they are.
    """
    rows = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    for name, levels in codebooks.items():
        if vocabulary.modality(name).factors > 1:
            continue
        for level, vectors in enumerate(levels):
            block = vocabulary.named_blocks[f"{name}.{level}"]
            own = rows[block.start : block.end]
            centred = (vectors - vectors.mean(0)).float().cpu()
            projected = centred @ torch.randn(centred.shape[1], rows.shape[1], generator=generator)
            projected *= own.std() / projected.std().clamp(min=1e-9)
            own.copy_(OWN**0.5 * own + (1 - OWN) ** 0.5 * projected)


class LanguageModel(nn.Module):
    """A causal LM with the block-wise loss: what the DeepSpeed engine wraps.

    Args:
        depth: what says the later levels of `depth` streams, with `riders`, int64 `[vocabulary]` (`riders_after`).
    """

    riders: Tensor

    def __init__(
        self,
        model: Any,
        z_loss: float = 0.0,
        attention: Attention | None = None,
        depth: DepthTransformer | None = None,
        riders: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.attention = attention or Attention()
        self.attention.install(model)
        head = model.get_output_embeddings()
        split = hasattr(head, "old_rows")  # by `rows.py`
        self.loss = BlockwiseCrossEntropy(
            head.old_rows if split else head.weight,
            z_loss,
            new_rows=head.new_rows if split else None,
            softcap=softcap_of(model.config),
        )
        self.depth = depth
        if depth is not None:
            self.register_buffer("riders", riders, persistent=False)

    @property
    def module(self) -> "LanguageModel":
        """Itself: what an engine around it calls so, so that `evaluate` takes either."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        document_ids: Tensor,
        labels: Tensor,
        weights: Tensor,
        reweigh: Callable[[Tensor], Tensor] | None = None,
    ) -> TokenLoss:
        """Loss of a packed batch; every tensor is `[rows, length]`, labels already shifted.

        reweigh: makes the weights of the loss, of any sign, of the nats of the labels that `weights` counts: what is a
        function of the model's log-probabilities has the gradient of a cross-entropy with weights of its own.
        """
        hidden = self.hidden_states(input_ids, position_ids, document_ids)
        if reweigh is not None:
            with torch.no_grad():
                weights = reweigh(self.loss(hidden, labels, weights).nll.view(labels.shape))
        return self.loss(hidden, labels, weights)

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor) -> Tensor:
        """The states `[rows, length, hidden]` from which the head reads the id after each place of packed rows."""
        if self.depth is None:
            return self.attention.hidden_states(self.model, input_ids, position_ids, document_ids)
        return self._folded_states(self.depth, input_ids, position_ids, document_ids)

    def _folded_states(
        self, depth: DepthTransformer, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor
    ) -> Tensor:
        """Hidden states `[rows, length, hidden]` with the levels of a cell inside one position."""
        rides = self.riders[input_ids] < 0
        folded = fold(rides, position_ids, document_ids)
        embeddings = self.model.get_input_embeddings()(input_ids)
        inputs = fold_embeddings(embeddings, folded, document_ids >= 0)
        hidden = self.attention.hidden_states(self.model, inputs, folded.position_ids, folded.document_ids)
        return next_states(hidden, embeddings, folded, rides, depth)


def flops_per_token(model: Any, length: int) -> float:
    """Training FLOPs per token, forward and backward: 6 per weight that multiplies, and attention (PaLM, app. B).

    A frozen weight counts 4: it needs no gradient of its own, but passes one on to what is trained below it.
    """
    config = model.config
    parameters = {id(parameter): parameter for parameter in model.parameters()}
    if not config.tie_word_embeddings:  # the embedding looks up; tied, it multiplies as the head
        for parameter in model.get_input_embeddings().parameters():
            del parameters[id(parameter)]
    multiplied = sum(parameter.numel() * (6 if parameter.requires_grad else 4) for parameter in parameters.values())
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * head_dim * length
    return float(multiplied + attention)
