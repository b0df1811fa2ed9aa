"""Patch discriminators for pictures and clips (pix2pix, arXiv 1611.07004): they judge overlapping patches."""

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


class ClipDiscriminator(nn.Module):
    """Clips `[batch, 3, time, height, width]` to a logit per patch of space and time, `[batch, 1, t, rows, columns]`.

    As `PatchDiscriminator`, with 3-D kernels; time is halved once, so that motion is judged over some frames.
    """

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), (1, 1, 1)), nn.LeakyReLU(0.2)]
        for layer in range(layers - 1):
            stride = (2 if layer == 0 else 1, 2, 2)
            stack += [
                nn.Conv3d(width, 2 * width, (3, 4, 4), stride, (1, 1, 1), bias=False),
                nn.GroupNorm(min(32, width), 2 * width),
                nn.LeakyReLU(0.2),
            ]
            width *= 2
        stack += [nn.Conv3d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv3d(width, 1, 3, padding=1)]
        self.layers = nn.Sequential(*stack)

    def forward(self, clips: Tensor) -> Tensor:
        return self.layers(clips)
