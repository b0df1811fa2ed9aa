"""Which Hugging Face architecture a model from scratch is: the export is a plain model, so its switches are theirs.

norm      qk_norm  logit_softcap
pre       true     0              Qwen3
pre       false    0              Llama
post      true     0              OLMo 2, whose QK-norm runs over all heads at once (arXiv 2501.00656)
sandwich  true     0 or more      Gemma 3, whose embeddings are scaled by sqrt(hidden) (arXiv 2503.19786)
"""

from typing import Any, Protocol

import torch

from anyglot.errors import ConfigError
from anyglot.lm.loss import cap_

ADDED = {  # where layers normalise -> the modules of a layer whose outputs are added to the hidden states
    "pre": ("self_attn", "mlp"),
    "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "sandwich": ("post_attention_layernorm", "post_feedforward_layernorm"),
}


class Shape(Protocol):
    """The fields of `ModelConfig` that an architecture is made of."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    max_length: int
    rope_theta: float
    attention_dropout: float
    qk_norm: bool
    norm: str
    logit_softcap: float
    tie: bool


def causal_lm(config: Shape, rows: int) -> Any:
    """A `PreTrainedModel` of `rows` ids with fresh weights.

    Raises ConfigError for switches that no architecture has together.
    """
    import transformers

    kinds: dict[tuple[str, bool], tuple[Any, Any]] = {
        ("pre", True): (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        ("pre", False): (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        ("post", True): (transformers.Olmo2Config, transformers.Olmo2ForCausalLM),
        ("sandwich", True): (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }
    if config.norm not in ADDED:
        raise ConfigError(f"model.norm is {config.norm!r}; valid: {', '.join(ADDED)}")
    if (config.norm, config.qk_norm) not in kinds:
        raise ConfigError(
            f"model.norm: {config.norm} without model.qk_norm is no architecture that others could load; "
            "set qk_norm: true, or norm: pre"
        )
    if config.logit_softcap < 0:
        raise ConfigError(f"model.logit_softcap must be 0 or more, not {config.logit_softcap}")
    if config.logit_softcap and config.norm != "sandwich":
        raise ConfigError(
            f"model.logit_softcap with model.norm: {config.norm} is no architecture that others could load; "
            "set norm: sandwich, or logit_softcap: 0"
        )
    make_config, make_model = kinds[config.norm, config.qk_norm]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    special: dict[str, Any] = {}
    if config.norm == "sandwich":
        rope = {"full_attention": rope, "sliding_attention": rope}
        special = {
            "layer_types": ["full_attention"] * config.layers,
            "sliding_window": config.max_length,  # of no layer, but masks are made for it
            "query_pre_attn_scalar": config.hidden // config.heads,
            "hidden_activation": "silu",
            "final_logit_softcapping": config.logit_softcap or None,
        }
    return make_model(
        make_config(
            vocab_size=rows,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate or -(-config.hidden * 8 // 3 // 64) * 64,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=config.max_length,
            rope_parameters=rope,
            rms_norm_eps=1e-6,
            attention_dropout=config.attention_dropout,
            tie_word_embeddings=config.tie,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            **special,
        )
    )


def softcap_of(config: Any) -> float:
    """The soft cap of the logits of any Hugging Face config, 0 where there is none."""
    return float(getattr(config.get_text_config(), "final_logit_softcapping", None) or 0.0)


@torch.no_grad()
def check_logits(model: Any, where: str) -> None:
    """Raise ConfigError if a model's logits are not its head times its hidden states, capped or not.

    Loss and generation here compute them so; some architectures scale them or add a bias.
    """
    ids = torch.arange(4, device=model.device)[None]
    training = model.training
    model.eval()
    head = model.get_output_embeddings().weight
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    ours, theirs = cap_(hidden @ head.T, softcap_of(model.config)), model(input_ids=ids, use_cache=False).logits
    model.train(training)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{where}: the logits of {type(model).__name__} are more than its output head times its hidden states "
            "(scaled, or with a bias), which is not supported; take another architecture"
        )
