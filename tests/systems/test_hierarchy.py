"""VQ-VAE-2 and HQA: codes at several resolutions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def relative_error(trained: Any, codes: Tensor) -> float:
    """Of held-out vectors decoded from codes, relative to their variance around the training mean."""
    x = trained.vectors.heldout
    with torch.no_grad():
        decoded = trained.model.decoder(trained.quantizer.decode(codes))
    return float((decoded - x).square().sum() / (x - trained.vectors.train.mean(0)).square().sum())


def test_vq_vae_2(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    """Two resolutions against the fine one alone at equal bits; and what the top code alone is worth."""
    two = train_recipe("vq-vae-2")
    flat = train_like("vq-vae-2", {"type": "hierarchy", "cells": [8], "inner": [{"type": "vq", "size": 32}]})
    assert two.measured.bits == flat.measured.bits == 40
    assert two.measured.relative_error < 0.95 * flat.measured.relative_error
    codes = two.quantizer.encode(two.model.encoder(two.vectors.heldout))
    torch.testing.assert_close(relative_error(two, codes), two.measured.relative_error)
    top = codes.clone()
    top[:, 1:] = -1
    assert 1.5 * two.measured.relative_error < relative_error(two, top) < 0.6


def test_hqa(train_recipe: Callable[..., Any]) -> None:
    """Codes of every layer stay in use with the reset, and collapse without; one code of 6 bits is kept of a vector."""
    kept, collapsed = train_recipe("hqa"), train_recipe("hqa", "quantizer.reset_below=0")
    assert kept.measured.bits == 6
    assert min(usage_of_layers(kept)) > 0.9
    assert usage_of_layers(collapsed)[-1] < 0.5
    assert kept.measured.health[0].perplexity > 3 * collapsed.measured.health[0].perplexity
    assert kept.measured.relative_error < 0.85 * collapsed.measured.relative_error


@torch.no_grad()
def usage_of_layers(trained: Any) -> list[float]:
    """Share of each layer's codes that are the nearest one of some training vector's latents, bottom to top."""
    latents, found = trained.model.encoder(trained.vectors.train), []
    for i, layer in enumerate(trained.quantizer.layers):
        if i:
            latents = trained.quantizer.compress[i - 1](latents)
        codes = layer.encode(latents.reshape(-1, layer.dim))
        found.append(len(codes.unique()) / layer.levels[0])
    return found
