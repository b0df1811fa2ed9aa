"""Vectors cut into sub-vectors, and what product quantizers do in each of those: sub-vectors are [groups, n, width].

Where groups do not divide the channels, the first ones have one channel more; the others end in a zero.
"""

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.local_search import sum_rows
from anyglot.tokenizers.quantizers.search import nearest


class Subspaces:
    """How `dim` channels fall into `groups` groups. widths: of each; width: of the widest."""

    def __init__(self, dim: int, groups: int) -> None:
        self.dim, self.groups = dim, groups
        self.widths = [dim // groups + (group < dim % groups) for group in range(groups)]
        self.width = self.widths[0]

    def split(self, vectors: Tensor) -> Tensor:
        """Sub-vectors [groups, n, width] of vectors [n, dim]."""
        if self.dim % self.groups == 0:
            return vectors.view(-1, self.groups, self.width).transpose(0, 1).contiguous()
        parts = vectors.new_zeros(self.groups, len(vectors), self.width)
        for into, part in zip(parts, torch.split(vectors, self.widths, 1), strict=True):
            into[:, : part.shape[1]] = part
        return parts

    def join(self, parts: Tensor) -> Tensor:
        """Vectors [n, dim] of sub-vectors [groups, n, width]."""
        return torch.cat([part[:, :width] for part, width in zip(parts, self.widths, strict=True)], 1)


def nearest_codes(parts: Tensor, codebooks: Tensor, sizes: list[int]) -> Tensor:
    """The nearest of the first `sizes[g]` codes of each group's codebook [groups, K, width]: int64 [n, groups]."""
    found = [nearest(part, book[:size])[0] for part, book, size in zip(parts, codebooks, sizes, strict=True)]
    return torch.stack(found, 1)


def take(codebooks: Tensor, codes: Tensor) -> Tensor:
    """Code vectors [groups, n, width] of codes [n, groups]; zero where a code is -1."""
    vectors = torch.stack([book[code] for book, code in zip(codebooks, codes.clamp(min=0).t(), strict=True)])
    return torch.where(codes.t()[..., None] >= 0, vectors, 0.0)


def start_codebooks(parts: Tensor, sizes: list[int], rows: int, iterations: int) -> Tensor:
    """k-means in each group: codebooks [groups, rows, width]. Rows that it leaves over (few distinct vectors) repeat
    its first centre, so that no search ever finds them."""
    books = parts.new_zeros(len(parts), rows, parts.shape[2])
    for book, part, size in zip(books, parts, sizes, strict=True):
        centres = kmeans(part, size, iterations)[0]
        book[:] = centres[0]
        book[: len(centres)] = centres
    return books


def sum_lookups(tables: Tensor, codes: Tensor) -> Tensor:
    """Sums over levels of what each query's table [q, levels, K] says of each code of codes [n, levels]: [q, n]."""
    _, levels, size = tables.shape
    rows = codes + torch.arange(levels, device=codes.device) * size
    return sum_rows(tables.reshape(len(tables), -1).t().contiguous(), rows).t()
