"""Patch discriminator for pictures (pix2pix, arXiv 1611.07004): judges overlapping patches, not whole pictures."""

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Pictures `[batch, 3, height, width]` to one logit per patch, `[batch, 1, rows, columns]`.

    Each of `layers` convolutions of stride 2 doubles the width, starting from `width`. Group instead of batch
    normalisation: a picture's verdict does not depend on its neighbours in the batch, nor on how ranks cut it.
    """

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(layers - 1):
            stack += [
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
                nn.GroupNorm(min(32, width), 2 * width),
                nn.LeakyReLU(0.2),
            ]
            width *= 2
        stack += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1)]
        self.layers = nn.Sequential(*stack)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.contiguous(memory_format=torch.channels_last))
