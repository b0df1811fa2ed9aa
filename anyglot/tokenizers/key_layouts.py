"""Weights in the key layouts of taming-transformers and LlamaGen, renamed for the network that both describe.

Both are the VQGAN of Esser et al. (arXiv:2012.09841) with attention at the lowest resolution; transformers has that
network as `JanusVQVAE`. They differ in names, in the order of the decoder's levels, and in how codes are looked up.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anyglot.errors import AnyglotError

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.embedding.")  # the rest is for training
MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}


def from_taming(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """taming-transformers' `VQModel`: its decoder counts levels from the finest, so `up` is turned round."""
    kept = {key: tensor for key, tensor in weights.items() if key.startswith(PARTS)}
    levels = _count(kept, r"decoder\.up\.(\d+)\.")
    return {
        re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", key): tensor
        for key, tensor in kept.items()
    }


def from_llamagen(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LlamaGen's `VQModel`: levels are `conv_blocks`, their blocks `res`, the middle a list."""
    renamed = {}
    for key, tensor in weights.items():
        if not key.startswith(PARTS):
            continue
        key = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", key)
        key = re.sub(r"^decoder\.conv_blocks\.", "decoder.up.", key)
        key = re.sub(r"(\.\d+)\.res\.", r"\1.block.", key)
        key = re.sub(r"\.mid\.([012])\.", lambda match: f".mid.{MIDDLE[match[1]]}.", key)
        renamed[key] = tensor
    return renamed


def config_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `JanusVQVAEConfig` that renamed weights fit, read off their shapes.

    Raises AnyglotError if they are not such a network, or one with attention at several resolutions.
    """
    try:
        levels = _count(weights, r"encoder\.down\.(\d+)\.")
        base = weights["encoder.conv_in.weight"].shape[0]
        widths = [weights[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
        codes, width = weights["quantize.embedding.weight"].shape
        attended = {int(match[1]) for key in weights if (match := re.match(r"encoder\.down\.(\d+)\.attn\.", key))}
        if attended != {levels - 1}:
            raise AnyglotError(
                f"attention at levels {sorted(attended)} of {levels}; only networks with attention at the last level "
                "alone can be taken over"
            )
        return {
            "base_channels": base,
            "channel_multiplier": [width // base for width in widths],
            "num_res_blocks": _count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
            "latent_channels": weights["decoder.conv_in.weight"].shape[1],
            "double_latent": weights["encoder.conv_out.weight"].shape[0] != weights["decoder.conv_in.weight"].shape[1],
            "num_embeddings": codes,
            "embed_dim": width,
        }
    except KeyError as error:
        raise AnyglotError(f"not the weights of a VQGAN: there is no {error.args[0]!r}") from error


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers keys have where `pattern` captures one."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})
