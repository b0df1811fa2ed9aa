"""Adversarial pieces that every modality shares: hinge losses, feature matching, the adaptive weight.

Losses take lists: one tensor per discriminator (a multi-scale discriminator has several), of any shape.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, relu


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Discriminator loss, mean over discriminators of E[max(0, 1 - real)] + E[max(0, 1 + fake)], halved.

    Geometric GAN (arXiv 1705.02894). Below 1 the discriminator tells the two apart; 1 is chance.
    """
    terms = [0.5 * (relu(1 - r).mean() + relu(1 + f).mean()) for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """Generator loss, mean over discriminators of -E[fake]. Unlike log(1 - D) it does not saturate."""
    return torch.stack([-f.mean() for f in fake]).mean()


def feature_matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 distance of discriminator features, each relative to the size of the real one (EnCodec, arXiv 2210.13438).

    Args:
        real, fake: per discriminator, the feature maps of its layers.
    """
    terms = [
        l1_loss(f, r.detach()) / (r.detach().abs().mean() + 1e-6)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).mean()


def gradient_at(loss: Tensor, output: Tensor) -> Tensor:
    """d loss / d output, detached, in the shape of `output`; no parameter's gradient is touched."""
    (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
    return gradient.detach()


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor, maximum: float = 1e4) -> Tensor:
    """The adversarial weight at which both terms pull the output equally hard (VQGAN, arXiv 2012.09841, eq. 7).

    |g_reconstruction| / (|g_adversarial| + 1e-4), at most `maximum`. VQGAN takes the gradients at the decoder's last
    layer; here they are taken at its output (`gradient_at`), which also works when that layer is frozen and spares
    a backward pass through it.
    """
    ratio = reconstruction_gradient.float().norm() / (adversarial_gradient.float().norm() + 1e-4)
    return ratio.clamp(max=maximum).detach()


def with_gradient(value: Tensor, output: Tensor, gradient: Tensor) -> Tensor:
    """A scalar equal to `value` whose gradient with respect to `output` is `gradient`.

    So that losses whose gradients at the output are already known (from `gradient_at`) are not differentiated twice.
    """
    carrier = ((output - output.detach()) * gradient.detach()).sum()  # zero, but for its gradient
    return value.detach() + carrier
