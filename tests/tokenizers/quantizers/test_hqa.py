import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.hqa import HierarchicalAutoencoder

OPTIONS = {"type": "hqa", "cells": [4, 2, 1], "size": 8, "hidden": 16, "kmeans_init": False, "reset_below": 0.0}


def make(dim: int = 8, **options: object) -> HierarchicalAutoencoder:
    quantizer = build({**OPTIONS, **options}, dim)
    assert isinstance(quantizer, HierarchicalAutoencoder)
    return quantizer


def test_only_the_top_code_is_kept_and_decodes_through_every_layer() -> None:
    """Slow twin: up through the networks to the nearest top code; down through the nearest code of each layer."""
    quantizer = make().eval()
    books = [layer.codebook.vectors() for layer in quantizer.layers]
    z = torch.randn(20, 8)
    result = quantizer(z)
    assert result.codes.shape == (20, 1)
    for vector, code, decoded in zip(z, result.codes, result.vectors, strict=True):
        top = quantizer.compress[1](quantizer.compress[0](vector[None]))[0]
        assert int(code) == int((books[2] - top).square().sum(1).argmin())
        latents = books[2][int(code)]
        for layer in (1, 0):
            pieces = quantizer.expand[layer](latents[None]).view(-1, 2)
            latents = books[layer][torch.cdist(pieces, books[layer]).argmin(1)].flatten()
        torch.testing.assert_close(decoded, latents)


def test_training_gives_the_codes_of_the_bottom_layer_alone() -> None:
    """What is behind the quantizer learns from the best vectors there are, not through the layers above."""
    quantizer = make()
    book = quantizer.layers[0].codebook.vectors().detach().clone()
    vectors = quantizer(torch.randn(50, 8, requires_grad=True)).vectors
    pieces = vectors.detach().view(-1, 1, 2)
    assert (pieces == book).all(-1).any(-1).all()


def test_layers_learn_from_detached_latents() -> None:
    """A layer's reconstruction trains its two networks, and neither the vectors nor the layers below."""
    quantizer = make()
    z = torch.randn(50, 8, requires_grad=True)
    quantizer(z).losses["latents"].backward()
    assert z.grad is None or (z.grad == 0).all()
    for network in (*quantizer.compress, *quantizer.expand):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_draws_by_the_softmax_of_the_distances() -> None:
    """Frequencies of the codes drawn for one vector against softmax(-|z - c|^2 / t), t relative to the codebook."""
    layer = make(temperature=0.5).layers[0]
    book = layer.codebook.vectors().detach()
    z = torch.randn(1, 2)
    likely = torch.softmax(-(z - book).square().sum(1) / (0.5 * book.var(0).sum()), 0)
    codes = layer(z.expand(40_000, 2)).codes[:, 0]
    torch.testing.assert_close(torch.bincount(codes, minlength=8) / 40_000, likely, atol=0.01, rtol=0)
    assert (layer.eval()(z.expand(100, 2)).codes == likely.argmax()).all()


def test_commitment_is_the_expected_distance_less_the_entropy() -> None:
    layer = make(temperature=0.3).layers[0]
    book = layer.codebook.vectors().detach()
    z = torch.randn(30, 2)
    temperature = 0.3 * book.var(0).sum()
    distance = torch.cdist(z, book).square()
    p = torch.softmax(-distance / temperature, 1)
    expected = (p * distance).sum(1) - temperature * torch.special.entr(p).sum(1)
    torch.testing.assert_close(layer(z).losses["commitment"], expected.mean() / 2, rtol=1e-4, atol=1e-5)


def test_unused_codes_move_next_to_used_ones() -> None:
    quantizer = make(reset_below=0.3)
    for step in range(20):
        quantizer(torch.randn(100, 8, generator=torch.Generator().manual_seed(step)).requires_grad_())
    book = quantizer.layers[0].codebook
    book.counts[3] = 0.0
    quantizer(torch.randn(100, 8).requires_grad_())
    distance = torch.cdist(book.weight[3:4], book.weight)[0]
    distance[3] = torch.inf
    assert distance.min() < 0.1 * book.weight.std()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": []}, "pieces of each layer"),
        ({"cells": [2, 4]}, "never more than of the one below"),
        ({"cells": [3, 1]}, "3 pieces do not divide"),
        ({"hidden": 0}, "hidden: must be 1"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"size": 1}, "at least 2 codes"),
        ({"commitment": -1.0}, "commitment: must be 0 or more"),
        ({"reset_below": 1.0}, "reset_below: a share"),
    ],
)
def test_refuses_what_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
