import pytest
import torch
from torch.nn import functional as F

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.search import CODES, ROWS
from anyglot.tokenizers.quantizers.vq import VectorQuantizer


def vq(**options: object) -> VectorQuantizer:
    quantizer = build({"type": "vq", "kmeans_init": False, "reset_below": 0.0, **options}, 2)
    assert isinstance(quantizer, VectorQuantizer)
    return quantizer


def test_loss_terms_and_their_gradients_by_hand() -> None:
    """beta weighs the commitment (gradient to the encoder), not the codebook term (gradient to the code)."""
    quantizer = vq(size=2, codebook="learned", commitment=0.25)
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.tensor([[0.0, 0.0], [10.0, 10.0]]))
    z = torch.tensor([[1.0, 2.0], [9.0, 10.0]], requires_grad=True)
    result = quantizer(z)
    assert result.codes.tolist() == [[0], [1]]
    assert result.losses["commitment"].item() == result.losses["codebook"].item() == (1 + 4 + 1 + 0) / 4
    weight = quantizer.codebook.weight
    d_z, d_weight = torch.autograd.grad(result.losses["commitment"], [z, weight], allow_unused=True, retain_graph=True)
    assert d_z.tolist() == [[0.5, 1.0], [-0.5, 0.0]]
    assert d_weight is None
    d_z, d_weight = torch.autograd.grad(result.losses["codebook"], [z, weight], allow_unused=True, retain_graph=True)
    assert d_z is None
    assert d_weight.tolist() == [[-0.5, -1.0], [0.5, 0.0]]
    assert quantizer.loss(result).item() == pytest.approx(1.5 + 0.25 * 1.5)
    d_z, d_weight = torch.autograd.grad(result.vectors.sum(), [z, weight], allow_unused=True)
    assert d_z.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert d_weight is None


def test_ema_codebook_has_no_codebook_loss_and_no_parameters() -> None:
    quantizer = vq(size=2)
    assert set(quantizer(torch.randn(5, 2)).losses) == {"commitment"}
    assert list(quantizer.parameters()) == []


def test_usage_and_perplexity_by_hand() -> None:
    quantizer = vq(size=4).eval()
    quantizer.codebook.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]))
    stats = quantizer(torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).stats
    assert stats["usage"] == 0.75
    assert stats["perplexity"].item() == pytest.approx(2**1.5)


@pytest.mark.parametrize("source", ["ema", "learned"])
def test_cosine_returns_the_unit_code_that_it_searched_and_lost_against(source: str) -> None:
    quantizer = vq(size=16, codebook=source, metric="cosine").eval()
    with torch.no_grad():
        quantizer.codebook.weight.mul_(torch.rand(16, 1) * 10)  # lengths of the stored codes mean nothing
    z = torch.randn(100, 2) * 3
    result = quantizer(z)
    unit = F.normalize(z, dim=-1)
    similarity = unit @ F.normalize(quantizer.codebook.weight, dim=-1).T
    assert torch.equal(result.codes[:, 0], similarity.argmax(1))
    torch.testing.assert_close(result.vectors.norm(dim=-1), torch.ones(100))
    torch.testing.assert_close(result.losses["commitment"], F.mse_loss(unit, result.vectors))
    assert torch.equal(quantizer.decode(result.codes), result.vectors)


def test_search_and_loss_use_the_codebook_of_before_the_step() -> None:
    quantizer = vq(size=4, decay=0.5)
    before = quantizer.codebook.weight.clone()
    z = torch.randn(50, 2)
    result = quantizer(z)
    assert torch.equal(result.vectors, before[result.codes[:, 0]])
    assert not torch.equal(quantizer.codebook.weight, before)
    assert quantizer.codebook.updates == 1


def test_vectors_are_exactly_the_codes() -> None:
    """z + (c - z) would be off by rounding; far from the origin by much."""
    quantizer = vq(size=4).eval()
    z = torch.randn(50, 2) * 1e6
    assert torch.equal(quantizer(z).vectors, quantizer.codebook.weight[quantizer.encode(z)[:, 0]])


def test_the_whole_step_never_makes_a_matrix_of_vectors_by_codes(largest_tensor) -> None:
    quantizer = build({"type": "vq", "size": 3000, "kmeans_init": False}, 8)
    z = torch.randn(4000, 8, requires_grad=True)

    def step() -> None:
        result = quantizer(z)
        (quantizer.loss(result) + result.vectors.sum()).backward()

    assert largest_tensor(step) <= ROWS * CODES
