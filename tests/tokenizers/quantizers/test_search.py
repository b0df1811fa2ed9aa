import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.search import CODES, ROWS, nearest, nearest_by_tiles

TRITON = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton, which this platform lacks")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


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


@pytest.mark.parametrize("count", [ROWS - 1, ROWS + 1, 2 * ROWS + 3])
@pytest.mark.parametrize("size", [1, 2, CODES - 1, CODES, CODES + 1, 2 * CODES + 3])
def test_tile_edges(count: int, size: int) -> None:
    """Small integers, so that arithmetic is exact and ties abound: the first of equal codes wins across tiles."""
    generator = torch.Generator().manual_seed(count * size)
    vectors, codebook = (torch.randint(-3, 4, (n, 3), generator=generator).float() for n in (count, size))
    distances = -2 * vectors @ codebook.T + codebook.square().sum(1)
    assert nearest(vectors, codebook)[0].tolist() == distances.numpy().argmin(1).tolist()


def test_first_of_equal_codes_wins() -> None:
    codebook = torch.ones(3 * CODES, 2)
    codebook[0] = 5.0
    assert nearest(torch.zeros(4, 2), codebook)[0].tolist() == [1] * 4


def test_never_makes_a_matrix_of_vectors_by_codes(largest_tensor) -> None:
    vectors, codebook = torch.randn(5000, 4), torch.randn(5000, 4)
    assert largest_tensor(lambda: nearest(vectors, codebook)) <= max(ROWS * CODES, codebook.numel(), vectors.numel())


def test_a_step_of_a_big_codebook_makes_nothing_bigger_than_it(largest_tensor) -> None:
    """65,536 codes; forward, backward and update. One matrix of these vectors by codes would have 400 MB."""
    quantizer = build({"type": "vq", "size": 65536, "kmeans_init": False}, 32)
    z = torch.randn(1500, 32, requires_grad=True)

    def step() -> None:
        result = quantizer(z)
        (quantizer.loss(result) + result.vectors.sum()).backward()

    assert largest_tensor(step) <= 65536 * 32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_searched_in_fp32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randn(n, 16, generator=generator).to(dtype) for n in (200, 300))
    assert torch.equal(nearest(vectors, codebook)[0], nearest(vectors.float(), codebook.float())[0])


def test_layout_of_memory_changes_no_code() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randn(16, n, generator=generator).t() for n in (2 * ROWS, CODES + 5))
    assert torch.equal(nearest(vectors, codebook)[0], nearest(vectors.contiguous(), codebook.contiguous())[0])


def test_the_batch_a_vector_is_in_changes_no_code() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randn(n, 24, generator=generator) for n in (ROWS + 40, CODES + 40))
    whole = nearest(vectors, codebook)[0]
    assert torch.equal(torch.cat([nearest(part, codebook)[0] for part in vectors.split(37)]), whole)


def test_search_records_no_gradients() -> None:
    vectors, codebook = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    assert not any(found.requires_grad for found in nearest(vectors, codebook))


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


def test_vectors_too_big_for_fp32_still_get_a_code() -> None:
    """Their distances are infinite or NaN; a code out of range would crash the look-up after it."""
    indices, _ = nearest(torch.full((3, 2), 1e30), torch.tensor([[1e30, 1e30], [-1e30, 0.0]] * 50))
    assert ((indices >= 0) & (indices < 100)).all()


@TRITON
def test_gpu_kernel_equals_search_by_tiles() -> None:
    """In Triton's interpreter, so without a GPU: ties, ragged tiles, codes shared among programs."""
    worker = Path(__file__).with_name("triton_worker.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, worker], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("compared 36")


@TRITON
@pytest.mark.parametrize("architecture", [80, 90])
def test_gpu_kernel_compiles_without_reduced_precision(architecture: int) -> None:
    """To machine code, without a GPU; the products are fp32 multiply-adds, none of them TF32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from anyglot.tokenizers.quantizers import search_triton

    constants = {"ROWS": search_triton.ROWS, "CODES": search_triton.CODES, "CHANNELS": search_triton.CHANNELS}
    types = dict.fromkeys(("vectors", "codebook", "lengths", "scores"), "*fp32") | {"indices": "*i64"}
    types |= dict.fromkeys(("count", "size", "width", "tiles_each"), "i32") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=search_triton.nearest_code, signature=types, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": search_triton.WARPS}
    )
    code = compiled.asm
    assert len(code["cubin"]) > 1000
    assert "tf32" not in code["ptx"]
    assert code["ptx"].count("fma.rn") > 100


@CUDA
@pytest.mark.parametrize("width", [3, 8, 16, 64, 100, 256])
@pytest.mark.parametrize(("count", "size"), [(3000, 3000), (100, 65536), (1, 1)])
def test_cuda_equals_cpu(count: int, size: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = (torch.randint(-3, 4, (n, width), generator=generator).float() for n in (count, size))
    expected = nearest(vectors, codebook)[0]
    for search in (nearest, nearest_by_tiles):
        assert torch.equal(search(vectors.cuda(), codebook.cuda())[0].cpu(), expected)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(nearest(vectors.cuda(), codebook.cuda())[0].cpu(), expected)
    vectors, codebook = (torch.randn(n, width, generator=generator) for n in (count, size))
    found = nearest(vectors.cuda(), codebook.cuda())[0].cpu()
    distances = [(vectors - codebook[codes]).square().sum(1) for codes in (found, nearest(vectors, codebook)[0])]
    torch.testing.assert_close(distances[0], distances[1], atol=1e-5, rtol=1e-6)  # another code only if as near


@CUDA
def test_cuda_makes_no_matrix_of_vectors_by_codes() -> None:
    vectors, codebook = torch.randn(16384, 8, device="cuda"), torch.randn(65536, 8, device="cuda")
    nearest(vectors, codebook)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    nearest(vectors, codebook)
    assert torch.cuda.max_memory_allocated() - before < 20 * 2**20
