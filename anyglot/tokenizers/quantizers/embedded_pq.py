"""What supervised and contrastive product quantizers share: codes are chosen in a space that is learned inside `fit`.

Vectors are embedded, the embedding is cut into groups with a codebook each, and search compares embeddings. The way
back to vectors is the linear map of code vectors that fits best, by least squares.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer, Report
from anyglot.tokenizers.quantizers.subspaces import sum_lookups, take

BATCH = 256


class EmbeddedPQ(FittedQuantizer):
    """Base with the codebooks [groups, size, width] and the decoder. A family writes `learn`, `assign` and `tables`."""

    codebooks: Tensor
    decoder: Tensor

    def __init__(self, dim: int, groups: int, size: int, width: int) -> None:
        super().__init__(dim, (size,) * groups)
        self.register_buffer("codebooks", torch.zeros(groups, size, width))
        self.register_buffer("decoder", torch.zeros(groups * width + 1, dim))

    def features(self, codes: Tensor) -> Tensor:
        """What codes [n, groups] stand for where search compares: [n, groups * width]; zero for a code of -1."""
        return take(self.codebooks, codes).transpose(0, 1).flatten(1)

    def tables(self, queries: Tensor) -> Tensor:
        """How far each code is from vectors [q, dim] in its group: [q, groups, size]."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        return self.features(codes) @ self.decoder[:-1] + self.decoder[-1]

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Distances [q, n] in the learned space, by look-ups; not those to the decoded vectors."""
        return sum_lookups(self.tables(queries), codes)

    def distances_to_decoded(self, queries: Tensor, codes: Tensor) -> Tensor:
        raise AnyglotError("there are codes of -1: they have no distance in the learned space; leave those entries out")

    @torch.no_grad()
    def fit_decoder(self, x: Tensor) -> float:
        """Fit the map from code vectors back to vectors [n, dim]; returns the mean squared error per channel."""
        features = self.features(self.assign(x)).double()
        design = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        gram = design.t() @ design
        gram.diagonal().add_(1e-3 * float(gram.diagonal().mean()))
        self.decoder.copy_(torch.linalg.solve(gram, design.t() @ x.double()))
        return float((self.features(self.assign(x)) @ self.decoder[:-1] + self.decoder[-1] - x).square().mean())


def descend(
    parameters: list[Tensor],
    loss: Callable[[Tensor, torch.Generator], Tensor],
    count: int,
    epochs: int,
    lr: float,
    report: Report,
    after_epoch: Callable[[], None] | None = None,
) -> list[float]:
    """Adam over minibatches of the indices 0 .. count - 1, the learning rate falling to zero; the same every time.

    loss: of a batch's indices [b], with the generator for any draws. Returns its mean over each epoch.
    """
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(parameters, lr)
    objective = []
    with torch.enable_grad():
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * (1 - epoch / epochs)
            values = []
            for batch in batches(count, generator):
                value = loss(batch, generator)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                values.append(float(value.detach()))
            if after_epoch is not None:
                after_epoch()
            objective.append(sum(values) / len(values))
            report(epoch + 1, epochs, objective[-1])
    return objective


def batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices in random order, `BATCH` at once; a rest too small for a batch is left to the next epoch."""
    order = torch.randperm(count, generator=generator)
    yield from torch.split(order, BATCH)[: max(count // BATCH, 1)]


def affine(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., n, in] times weight [..., in + 1, out], whose last row is the bias."""
    return x @ weight[..., :-1, :] + weight[..., -1:, :]
