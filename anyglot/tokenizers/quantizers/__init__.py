"""Vectors to codes and back. See `base` for the contract and `registry.build` for how configs name them."""

from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, codebooks
from anyglot.tokenizers.quantizers.registry import build

__all__ = ["Quantized", "Quantizer", "build", "codebooks"]
