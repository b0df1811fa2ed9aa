"""How likely a triple is, from the vectors of its ends: every entity scored as the tail of (head, relation, ?).

Relations include inverses, so that heads are found as the tails of (tail, inverse relation, ?).
"""

import torch
from torch import Tensor, nn


class TripleScorer(nn.Module):
    """relations: how many, inverses included. width: of the entities' vectors."""

    def query(self, heads: Tensor, relations: Tensor) -> Tensor:
        """What a tail should be like, [n, width], of head vectors [n, width] and relations int64 [n]."""
        raise NotImplementedError

    def score(self, queries: Tensor, tails: Tensor) -> Tensor:
        """Scores [n, tails] of tail vectors [tails, width]: higher is likelier."""
        raise NotImplementedError


class DistMult(TripleScorer):
    """sum(head * relation * tail) (Yang et al. 2015, arXiv:1412.6575)."""

    def __init__(self, relations: int, width: int) -> None:
        super().__init__()
        self.relations = nn.Embedding(relations, width)
        nn.init.normal_(self.relations.weight)

    def query(self, heads: Tensor, relations: Tensor) -> Tensor:
        return heads * self.relations(relations)

    def score(self, queries: Tensor, tails: Tensor) -> Tensor:
        return queries @ tails.t()


class RotatE(TripleScorer):
    """-|head turned by relation - tail|, vectors as complex numbers (Sun et al. 2019, arXiv:1902.10197).

    The first half of a vector holds real parts, the second half imaginary ones.
    """

    def __init__(self, relations: int, width: int) -> None:
        super().__init__()
        self.angles = nn.Embedding(relations, width // 2)
        nn.init.uniform_(self.angles.weight, -torch.pi, torch.pi)

    def query(self, heads: Tensor, relations: Tensor) -> Tensor:
        real, imaginary = heads.chunk(2, dim=-1)
        cos, sin = self.angles(relations).cos(), self.angles(relations).sin()
        return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)

    def score(self, queries: Tensor, tails: Tensor) -> Tensor:
        real, imaginary = (queries[:, None] - tails).chunk(2, dim=-1)
        return -(real.square() + imaginary.square() + 1e-9).sqrt().sum(-1)  # 1e-9: the root has a slope at 0 too


SCORERS: dict[str, type[TripleScorer]] = {"distmult": DistMult, "rotate": RotatE}
