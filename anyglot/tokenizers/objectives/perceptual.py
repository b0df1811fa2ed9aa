"""Perceptual loss: distance of deep features instead of pixels (Johnson et al. 1603.08155, Zhang et al. 1801.03924)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.features import feature_network


class PerceptualLoss(nn.Module):
    """Mean over feature maps of |unit(f(a)) - unit(f(b))|^2, unit length over channels, mean over places.

    LPIPS without its learned channel weights, over any network of `features.FEATURES`. `stages` says how many maps
    count, shallow first; what lies behind the last one is not computed. The network is left out of state dicts.
    """

    def __init__(self, features: str = "efficientnet_lite0", stages: int = 3) -> None:
        super().__init__()
        network = feature_network(features)
        if not 1 <= stages <= len(network.taps):  # type: ignore[arg-type]
            raise ConfigError(f"perceptual stages must be 1 to {len(network.taps)} for {features}")  # type: ignore[arg-type]
        self._network = [network]  # in a list, so that it is no submodule: checkpoints need not hold it
        self.stages = stages

    @property
    def network(self) -> nn.Module:
        """The feature network."""
        return self._network[0]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of pictures `[batch, 3, height, width]` in [-1, 1], in fp32; no gradient to `target`."""
        network = self._network[0].to(output.device)
        with torch.autocast(output.device.type, enabled=False):  # bf16 depthwise convolutions crawl on a CPU
            with torch.no_grad():
                wanted = network(target.float(), self.stages)
            got = network(output.float(), self.stages)
            terms = [
                (normalize(g, dim=1) - normalize(w, dim=1)).square().sum(1).mean()
                for g, w in zip(got, wanted, strict=True)
            ]
        return torch.stack(terms).mean()
