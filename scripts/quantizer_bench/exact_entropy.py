"""The entropy of LFQ's 2^bits codes: against the softmax over all of them, in float64."""

from typing import Any

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.entropy import batch_entropy, code_entropy

TEMPERATURE = 0.3  # LFQ's default


def against_full_softmax(bits: int, vectors: int, seed: int) -> dict[str, Any]:
    """Largest differences of both entropies and of their gradient, [vectors, bits], from the full softmax's."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(bits, bits, generator=generator, dtype=torch.float64) / bits**0.5  # correlated bits
    z = (torch.randn(vectors, bits, generator=generator, dtype=torch.float64) @ mix).requires_grad_()
    logits = z * (4 / TEMPERATURE)
    ours = code_entropy(logits).mean(), batch_entropy(logits, 1, vectors, synced=False)
    full = _full_softmax(z)
    gradients = [torch.autograd.grad(each - mean, z)[0] for each, mean in (ours, full)]
    return {
        "bits": bits,
        "N": vectors,
        "entropy_error": max(float((a - b).detach().abs()) for a, b in zip(ours, full, strict=True)),
        "gradient_error": float((gradients[0] - gradients[1]).abs().max()),
        "gradient_size": float(gradients[1].abs().max()),
    }


def _full_softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean entropy of each vector's assignment, and entropy of the mean assignment, from all 2^bits distances."""
    codes = torch.arange(2 ** z.shape[1])
    corners = (codes[:, None] >> torch.arange(z.shape[1]) & 1).double() * 2 - 1
    distances = z.square().sum(1)[:, None] - 2 * z @ corners.t() + z.shape[1]
    chance = torch.softmax(-distances / TEMPERATURE, 1)
    return torch.special.entr(chance).sum(1).mean(), torch.special.entr(chance.mean(0)).sum()
