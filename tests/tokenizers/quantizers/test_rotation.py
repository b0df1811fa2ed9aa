import pytest
import torch

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation, pca, procrustes


def orthogonal(matrix: torch.Tensor) -> bool:
    return torch.allclose(matrix @ matrix.t(), torch.eye(len(matrix)), atol=1e-5)


def test_principal_components_are_uncorrelated_of_falling_variance() -> None:
    x = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    mean, basis = pca(x)
    components = (x - mean) @ basis
    covariance = components.t() @ components / len(x)
    variances = covariance.diag()
    assert orthogonal(basis)
    assert (variances[:-1] >= variances[1:]).all()
    assert (covariance - variances.diag()).abs().max() < 1e-3 * variances.max()
    torch.testing.assert_close(components @ basis.t() + mean, x, atol=1e-4, rtol=1e-4)


def test_procrustes_finds_a_rotation_and_beats_others() -> None:
    x = torch.randn(200, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    torch.testing.assert_close(procrustes(x, x @ rotation), rotation, atol=1e-5, rtol=0)
    y = torch.randn(200, 5)
    best = (x @ procrustes(x, y) - y).square().sum()
    for _ in range(20):
        assert (x @ torch.linalg.qr(torch.randn(5, 5))[0] - y).square().sum() >= best


def test_eigenvalue_allocation_balances_the_groups() -> None:
    x = torch.randn(4000, 8) * torch.tensor([32.0, 16, 8, 8, 4, 4, 2, 1])
    rotation = eigenvalue_allocation(x, 2)
    assert orthogonal(rotation)
    rotated = x @ rotation
    products = rotated.var(0).log().view(2, 4).sum(1)
    assert (products[0] - products[1]).abs() < 0.8  # 13.9 for axes in falling order
    assert (rotated.t().corrcoef() - torch.eye(8)).abs().max() < 0.02
    with pytest.raises(AnyglotError, match="3 groups must divide the width of the vectors, 8"):
        eigenvalue_allocation(x, 3)
