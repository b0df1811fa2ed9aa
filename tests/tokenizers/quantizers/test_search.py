import numpy as np
import pytest
import torch

from anyglot.tokenizers.quantizers.search import CODES, ROWS, nearest


def slow_nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """One vector and one code at a time, in float64; the first of equal codes."""
    indices = []
    for vector in vectors.astype(np.float64):
        best, best_distance = 0, np.inf
        for k, code in enumerate(codebook.astype(np.float64)):
            distance = ((vector - code) ** 2).sum()
            if distance < best_distance:
                best, best_distance = k, distance
        indices.append(best)
    return np.array(indices)


@pytest.mark.parametrize(("count", "size", "width"), [(1, 1, 1), (5, 2, 3), (64, 100, 8), (20, 1030, 4), (530, 40, 16)])
def test_equals_slow_search(count: int, size: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randn(n, width, generator=generator) for n in (count, size))
    indices, scores = nearest(vectors, codebook)
    assert indices.tolist() == slow_nearest(vectors.numpy(), codebook.numpy()).tolist()
    distances = (vectors - codebook[indices]).square().sum(1)
    torch.testing.assert_close(scores + vectors.square().sum(1), distances, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
@pytest.mark.parametrize("size", [CODES - 1, CODES, CODES + 1, 2 * CODES + 3])
def test_tile_edges(count: int, size: int) -> None:
    """Small integers, so that arithmetic is exact and ties abound: the first of equal codes wins across tiles."""
    generator = torch.Generator().manual_seed(count * size)
    vectors, codebook = (torch.randint(-3, 4, (n, 3), generator=generator).float() for n in (count, size))
    distances = (vectors[:, None] - codebook).square().sum(-1).numpy()
    assert nearest(vectors, codebook)[0].tolist() == distances.argmin(1).tolist()


def test_first_of_equal_codes_wins() -> None:
    codebook = torch.ones(3 * CODES, 2)
    codebook[0] = 5.0
    assert nearest(torch.zeros(4, 2), codebook)[0].tolist() == [1] * 4


def test_never_makes_a_matrix_of_vectors_by_codes(largest_tensor) -> None:
    vectors, codebook = torch.randn(3000, 4), torch.randn(5000, 4)
    assert largest_tensor(lambda: nearest(vectors, codebook)) <= max(ROWS * CODES, codebook.numel(), vectors.numel())


def test_no_vectors() -> None:
    indices, scores = nearest(torch.zeros(0, 4), torch.randn(3, 4))
    assert indices.shape == scores.shape == (0,)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_half_precision_settings_change_no_code(precision: str) -> None:
    """A bf16 product would choose another code for some percent of these vectors."""
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(2000, 32, generator=generator), torch.randn(2000, 32, generator=generator)
    expected = nearest(vectors, codebook)[0]
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(nearest(vectors, codebook)[0], expected)
            wrong = (-2 * vectors @ codebook.T + codebook.square().sum(1)).argmin(1)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (wrong != expected).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    vectors, codebook = torch.randn(3000, 16), torch.randn(3000, 16)
    assert torch.equal(nearest(vectors.cuda(), codebook.cuda())[0].cpu(), nearest(vectors, codebook)[0])
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(nearest(vectors.cuda(), codebook.cuda())[0].cpu(), nearest(vectors, codebook)[0])
