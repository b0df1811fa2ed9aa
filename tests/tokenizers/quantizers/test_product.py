"""Products of quantizers trained by gradients."""

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build

EMA = {"type": "vq", "size": 12}


def test_a_product_is_its_groups_side_by_side() -> None:
    product = build({"type": "product", "groups": 3, "inner": {**EMA, "kmeans_init": False}}, 8).eval()
    assert [group.dim for group in product.groups] == [3, 3, 2]
    assert product.levels == (12, 12, 12)
    z = torch.randn(5, 4, 8)
    codes = product.encode(z)
    for i, (group, part) in enumerate(zip(product.groups, z.split([3, 3, 2], -1), strict=True)):
        assert torch.equal(group.encode(part)[..., 0], codes[..., i])
        assert torch.equal(group.decode(codes[..., i : i + 1]), product.decode(codes).split([3, 3, 2], -1)[i])


def test_levels_of_the_inner_quantizer_come_group_by_group() -> None:
    inner = {"type": "residual", "levels": 2, "inner": {**EMA, "kmeans_init": False}}
    product = build({"type": "product", "groups": 2, "inner": inner}, 6).train()
    assert product.levels == (12,) * 4
    z = torch.randn(50, 6)
    result = product(z)
    assert torch.equal(result.codes[:, 2:], product.groups[1](z[:, 3:]).codes) or product.groups[1].training
    assert {"usage_0", "usage_3", "perplexity_3", "usage"} <= result.stats.keys()
    assert "usage_4" not in result.stats


def test_the_gradient_is_each_groups_own() -> None:
    cosine = {**EMA, "width": 2, "metric": "cosine", "kmeans_init": False}
    product = build({"type": "product", "groups": 2, "inner": cosine}, 6)
    z, direction = torch.randn(7, 6, requires_grad=True), torch.randn(7, 6)
    (found,) = torch.autograd.grad((product.eval()(z).vectors * direction).sum(), z)
    for group, part in zip(product.groups, (slice(0, 3), slice(3, 6)), strict=True):
        alone = z[:, part].detach().requires_grad_()
        (expected,) = torch.autograd.grad((group(alone).vectors * direction[:, part]).sum(), alone)
        torch.testing.assert_close(found[:, part], expected)


def test_losses_are_means_over_groups() -> None:
    product = build({"type": "product", "groups": 2, "inner": {**EMA, "kmeans_init": False}}, 6).eval()
    z = torch.randn(40, 6)
    result = product(z)
    torch.testing.assert_close(result.losses["commitment"], (result.vectors - z).square().mean())


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"groups": 0, "inner": EMA}, r"here\.groups: 4 channels make 1 to 4 groups, got 0"),
        ({"groups": 5, "inner": EMA}, r"here\.groups"),
        ({"groups": 2, "inner": {"type": "pq", "groups": 1, "size": 4}}, "fitted offline; use type 'pq'"),
        ({"groups": 2, "inner": {**EMA, "sise": 3}}, r"here\.inner: unknown key 'sise'"),
        ({"groups": 2}, "required key 'inner'"),
    ],
)
def test_refuses_what_makes_no_product(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"type": "product", **mapping}, 4, "here")
