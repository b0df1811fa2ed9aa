"""Fitted quantizers whose vectors are sums of code vectors, one of each of several full-width codebooks."""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.beam import sum_of
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer


class SummedQuantizer(FittedQuantizer):
    """Base with the codebooks [levels, size, dim], the decoder, and distances by table look-ups.

    A family writes `learn`, which fills `codebooks`, and `assign`.
    """

    codebooks: Tensor

    def __init__(self, dim: int, levels: int, size: int) -> None:
        super().__init__(dim, (size,) * levels)
        self.register_buffer("codebooks", torch.zeros(levels, size, dim))

    def lookup(self, codes: Tensor) -> Tensor:
        return sum_of(self.codebooks, codes)

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """[q, n]: |q|^2 - 2 (sum of look-ups in the query's table of products) + |sum of code vectors|^2.

        The last term does not depend on the query: a search engine stores it with each entry (Babenko and Lempitsky
        2014, Additive Quantization).
        """
        norms = self.decode(codes).square().sum(1)
        # Tables are [codes, queries], so that a look-up copies a whole row.
        tables = self.codebooks @ queries.t()
        products = torch.zeros(len(codes), len(queries), device=queries.device)
        for level, table in enumerate(tables):
            products += table[codes[:, level]]
        return (queries.square().sum(1) - 2 * products + norms[:, None]).t()
