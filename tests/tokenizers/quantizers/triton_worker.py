"""Runs the GPU search in Triton's interpreter, on the CPU, and compares it with the search by tiles.

The interpreter is chosen when Triton is imported, so this is a process of its own (see test_search.py).
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from anyglot.tokenizers.quantizers import search_triton
from anyglot.tokenizers.quantizers.search import nearest_by_tiles

SHAPES = [(1, 1, 1), (64, 128, 16), (70, 130, 3), (65, 500, 17), (130, 200, 40), (3, 2000, 8)]


def main() -> None:
    compared = 0
    for programs in (search_triton.PROGRAMS, 1):  # many share the codes of a vector; one program has all of them
        search_triton.PROGRAMS = programs
        for count, size, width in SHAPES:
            generator = torch.Generator().manual_seed(count * size)
            # Small integers make arithmetic exact and ties abound; normal vectors have neither.
            exact = [torch.randint(-2, 3, (n, width), generator=generator).float() for n in (count, size)]
            normal = [torch.randn(n, width, generator=generator) for n in (count, size)]
            strided = [torch.randn(width, n, generator=generator).t() for n in (count, size)]
            for vectors, codebook in (exact, normal, strided):
                indices, scores = search_triton.nearest(vectors, codebook)
                expected, expected_scores = nearest_by_tiles(vectors, codebook)
                assert torch.equal(indices, expected), (count, size, width)
                torch.testing.assert_close(scores, expected_scores, atol=1e-4, rtol=1e-5)
                compared += 1
    equal_codes = torch.ones(3 * search_triton.CODES, 2)
    equal_codes[0] = 5.0
    assert search_triton.nearest(torch.zeros(4, 2), equal_codes)[0].tolist() == [1] * 4
    indices, scores = search_triton.nearest(torch.zeros(0, 4), torch.randn(3, 4))
    assert indices.shape == scores.shape == (0,)
    print(f"compared {compared}")


if __name__ == "__main__":
    main()
