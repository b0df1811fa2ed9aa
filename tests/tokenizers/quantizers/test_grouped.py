"""Codes in groups: every code of a group can be reached, none by another group."""

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build

SIZES = [37, 12, 3, 1 + 1]


def vectors(group, parts):
    """Vectors `[n, 4 + width]` of one group."""
    front = torch.zeros(len(parts), len(SIZES))
    front[:, group] = 1.0
    return torch.cat([front, parts], 1)


def make(**inner):
    torch.manual_seed(0)
    return build({"type": "grouped", "sizes": SIZES, "inner": {"type": "vq", "kmeans_init": False, **inner}}, 9)


def test_every_code_of_a_group_is_reached_and_none_leaks():
    quantizer = make().eval()
    assert quantizer.levels == (sum(SIZES),)
    start = 0
    for group, size in enumerate(SIZES):
        own = quantizer.groups[group].codebook.vectors()
        codes = quantizer.encode(vectors(group, own))
        assert codes[:, 0].tolist() == list(range(start, start + size))  # the last one of a group too
        torch.testing.assert_close(quantizer.decode(codes), vectors(group, own))
        anything = vectors(group, 5 * torch.randn(2000, 5))
        found = quantizer.encode(anything)
        assert start <= int(found.min())
        assert int(found.max()) < start + size
        slow = (anything[:, None, 4:] - own).square().sum(-1).argmin(1) + start
        assert torch.equal(found[:, 0], slow)
        start += size


def test_a_group_learns_from_its_own_vectors_only():
    quantizer = make().train()
    before = [group.codebook.vectors().clone() for group in quantizer.groups]
    for _ in range(5):
        quantizer(vectors(1, torch.randn(200, 5)).requires_grad_())
    moved = [not torch.equal(a, group.codebook.vectors()) for a, group in zip(before, quantizer.groups, strict=True)]
    assert moved == [False, True, False, False]


def test_losses_are_means_over_all_vectors():
    quantizer = make(codebook="learned").eval()
    z = torch.cat([vectors(0, torch.randn(30, 5)), vectors(2, torch.randn(10, 5))])
    result = quantizer(z)
    error = (z[:, 4:] - result.vectors[:, 4:]).square().mean()
    torch.testing.assert_close(result.losses["commitment"], error)
    torch.testing.assert_close(result.losses["codebook"], error)


def test_settings_that_cannot_work_are_refused():
    for mapping, message in [
        ({"sizes": [8]}, "two groups or more"),
        ({"sizes": [2] * 9}, "fewer than the 9 channels"),
        ({"sizes": [4, 4], "inner": {"type": "vq", "size": 4}}, "leave it out"),
        ({"sizes": [4, 4], "inner": {"type": "vq", "width": 2}}, "without `width`"),
        ({"sizes": [4, 1]}, "at least 2 codes"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build({"type": "grouped", **mapping}, 9)
