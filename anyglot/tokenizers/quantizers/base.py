"""The contract of a quantizer: continuous vectors to codes and back, channel-last.

Every family is a pipeline of the same steps, and writes only the middle ones:

    z -> project_in -> bound -> select (codes, code vectors, losses) -> pass_gradient -> project_out

`bound` maps into the domain where codes are chosen (tanh for FSQ, the unit sphere for cosine VQ). `pass_gradient`
says what the gradient of the code vectors with respect to the bounded vectors is: the identity, unless a family
has another.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.buffers import Fp32Buffers
from anyglot.tokenizers.quantizers.gradients import straight_through as straight_through
from anyglot.tokenizers.quantizers.search import full_precision


@dataclass
class Quantized:
    """What a quantizer makes of vectors.

    vectors: [*grid, dim], in the dtype of the input; the gradient passes through to the input.
    codes: int64 [*grid, levels]; -1 where there is no code (masked position, dropped level).
    losses: unweighted scalar means, e.g. "commitment", "codebook", "entropy"; see `Quantizer.loss`.
    stats: detached scalars of this batch, "usage" (share of the codebook that occurs) and "perplexity".
    """

    vectors: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]


def count_codes(codes: Tensor, size: int) -> Tensor:
    """How often codes occur; of big codebooks only those that do."""
    return torch.bincount(codes.flatten()) if size <= 2**18 else torch.unique(codes, return_counts=True)[1]


def code_stats(counts: Tensor, size: int) -> dict[str, Tensor]:
    """Usage and perplexity of a codebook of `size` codes, from how often codes occur (see `count_codes`)."""
    # Of big codebooks most codes occur a few times or never: logarithms of how often, not one for each code.
    alike = torch.bincount(counts.long())  # how many codes occur 0, 1, 2 ... times
    times = torch.arange(len(alike), device=counts.device, dtype=torch.float32)
    total = (alike * times).sum().clamp(min=1)
    entropy = (alike * torch.special.entr(times / total)).sum()
    return {"usage": alike[1:].sum() / size, "perplexity": entropy.exp()}


class Projection(nn.Linear):
    """A linear map that computes in fp32 even where an engine stores its weights in bf16."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.float(), self.bias.float())


class Quantizer(Fp32Buffers):
    """Base of all families. A family writes `bound`, `assign`, `lookup` and `select`, all on flat fp32 vectors.

    dim: width of the vectors outside. width: of the code vectors; a projection leads to it and back where the
    two differ. levels: codebook size of each level. weights: of the loss terms.

    Codes are chosen in fp32 under any autocast. Running statistics change only in a forward in training mode with
    gradients enabled; such a forward uses the codebook as it was before. Ranks take part in its collectives, so all
    of them must make it. Do not put a quantizer inside activation checkpointing: the recomputation updates twice.
    """

    # Whether vectors of `select` carry a gradient to `h` in training (mixtures, samples); a stack would add a second.
    own_gradient = False

    def __init__(self, dim: int, width: int, levels: tuple[int, ...], weights: dict[str, float]) -> None:
        super().__init__()
        self.dim, self.width, self.levels, self.weights = dim, width, levels, weights
        self.project_in: nn.Module = nn.Identity() if width == dim else Projection(dim, width)
        self.project_out: nn.Module = nn.Identity() if width == dim else Projection(width, dim)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(itertools.chain(self.buffers(), self.parameters())).device

    @property
    def projects(self) -> bool:
        """Whether projections lead to the code vectors and back."""
        return self.width != self.dim

    @property
    def residual_scale(self) -> Tensor | float:
        """Size of what is left over relative to what was given, per channel [width]; 1 where the codebook learns it."""
        return 1.0

    @property
    def ready(self) -> bool:
        """False while the codebook still collects vectors for its initialisation."""
        return True

    @property
    def updating(self) -> bool:
        """Whether a forward now may change running statistics, and talks to the other ranks."""
        return self.training and torch.is_grad_enabled()

    # What a family writes. `h` is fp32 [n, width], already bounded; `codes` int64 [n, levels].

    def bound(self, h: Tensor) -> Tensor:
        """Map [n, width] differentiably into the domain where codes are chosen."""
        return h

    def assign(self, h: Tensor) -> Tensor:
        """Choose codes [n, levels], without side effects."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors [n, width]; any vector where a code is -1."""
        raise NotImplementedError

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        """Choose codes, with losses and, when `updating`, running statistics.

        sample: int64 [n], the index along the first axis of the input that each vector came from.
        Returns flat results of width `width`; the vectors carry gradients to parameters only, not to `h`, unless the
        family says so by `own_gradient`.
        """
        raise NotImplementedError

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        """The selected vectors, with the gradient that reaches `h`: straight-through unless a family says otherwise."""
        return straight_through(h, vectors)

    # What everybody calls.

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize vectors [*grid, dim]; where mask bool [*grid] is False they are ignored, whatever they hold.

        Masked positions get zero vectors and code -1. Raises AnyglotError for a wrong shape, no vectors, NaN or
        infinity.
        """
        self._check_shape(z, mask)
        grid = z.shape[:-1]
        batch = torch.arange(grid[0] if grid else 1, device=z.device)
        sample = batch.view(-1, *[1] * (len(grid) - 1)).expand(grid) if grid else batch
        with full_precision(z.device):
            flat = (z.reshape(-1, self.dim) if mask is None else z[mask]).float()
            _check_finite(flat, z)
            result = self.quantize(flat, sample.reshape(-1) if mask is None else sample[mask])
        if mask is None:
            vectors, codes = result.vectors.reshape(z.shape), result.codes.reshape(*grid, len(self.levels))
        else:
            vectors = result.vectors.new_zeros(z.shape).index_put((mask,), result.vectors)
            codes = result.codes.new_full((*grid, len(self.levels)), -1).index_put((mask,), result.codes)
        return Quantized(vectors.to(z.dtype), codes, result.losses, result.stats)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes int64 [*grid, levels] of vectors [*grid, dim]. Raises as `forward`."""
        self._check_shape(z, None)
        with full_precision(z.device):
            flat = z.reshape(-1, self.dim).float()
            _check_finite(flat, z)
            return self.encode_flat(flat).reshape(*z.shape[:-1], len(self.levels))

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors fp32 [*grid, dim] of codes [*grid, levels]; a code of -1 adds nothing.

        In evaluation `decode(encode(z))` equals `forward(z).vectors`. Raises AnyglotError for codes of a wrong shape
        or outside the codebook.
        """
        self._check_codes(codes)
        flat = codes.reshape(-1, len(self.levels)).to(torch.int64)
        with full_precision(codes.device):
            return self.decode_flat(flat).reshape(*codes.shape[:-1], self.dim)

    @torch.no_grad()
    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances [q, n] between queries [q, dim] and what codes [n, levels] decode to.

        By look-ups in one table per query where a family has them. Raises AnyglotError for wrong shapes or codes.
        """
        self._check_shape(queries, None)
        self._check_codes(codes)
        with full_precision(queries.device):
            if bool((codes < 0).any()):  # no table has an entry for no code
                return self.distances_to_decoded(queries.float(), codes)
            return self.distances_by_tables(queries.float(), codes)

    def distances_by_tables(self, queries: Tensor, codes: Tensor) -> Tensor:
        """`distances` of fp32 queries and codes of which none is -1. Families with tables override it."""
        return self.distances_to_decoded(queries, codes)

    @torch.no_grad()
    def distances_to_decoded(self, queries: Tensor, codes: Tensor) -> Tensor:
        """The same without tables: decode, then compare."""
        vectors = self.decode(codes)
        with full_precision(queries.device):
            products = queries.float() @ vectors.t()
        return queries.float().square().sum(1)[:, None] - 2 * products + vectors.square().sum(1)

    def loss(self, quantized: Quantized) -> Tensor:
        """Sum of the loss terms, each times the weight that this quantizer's config gives it."""
        terms = [self.weights[name] * value for name, value in quantized.losses.items()]
        return torch.stack(terms).sum() if terms else quantized.vectors.new_zeros((), dtype=torch.float32)

    # The same on flat vectors [n, dim], for quantizers made of quantizers.

    def quantize(self, z: Tensor, sample: Tensor) -> Quantized:
        """`forward` without checks; see `select` for `sample`."""
        h = self.bound(self.project_in(z))
        result = self.select(h, sample)
        result.vectors = self.project_out(self.pass_gradient(h, result.vectors))
        return result

    def encode_flat(self, z: Tensor) -> Tensor:
        """Codes [n, levels] of fp32 vectors [n, dim]."""
        return self.assign(self.bound(self.project_in(z)))

    def decode_flat(self, codes: Tensor) -> Tensor:
        """Vectors [n, dim] of codes [n, levels]; zero where every level is -1."""
        vectors = self.project_out(self.lookup(codes.clamp(min=0) if len(self.levels) == 1 else codes))
        some = (codes >= 0).any(-1, keepdim=True)
        return vectors if bool(some.all()) else torch.where(some, vectors, 0.0)

    def _check_codes(self, codes: Tensor) -> None:
        expected = f"expected integer codes [..., {len(self.levels)}]"
        if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.ndim == 0:
            raise AnyglotError(f"{expected}, got {codes.dtype} {list(codes.shape)}")
        if codes.shape[-1] != len(self.levels):
            raise AnyglotError(f"{expected}, got {list(codes.shape)}")
        flat = codes.reshape(-1, len(self.levels))
        sizes = torch.tensor(self.levels, device=codes.device)
        if bool(((flat < -1) | (flat >= sizes)).any()):
            raise AnyglotError(
                f"codes of a {list(self.levels)} codebook must lie in 0 .. size - 1 (or be -1 for none), "
                f"got {int(flat.min())} .. {int(flat.max())}"
            )

    def _check_shape(self, z: Tensor, mask: Tensor | None) -> None:
        if z.ndim == 0 or z.shape[-1] != self.dim or not z.dtype.is_floating_point:
            raise AnyglotError(f"expected float vectors [..., {self.dim}], got {z.dtype} {list(z.shape)}")
        if z.numel() == 0:
            raise AnyglotError(f"expected at least one vector [..., {self.dim}], got an empty {list(z.shape)}")
        if mask is not None and (mask.shape != z.shape[:-1] or mask.dtype != torch.bool):
            raise AnyglotError(
                f"expected a bool mask {list(z.shape[:-1])} for vectors {list(z.shape)}, "
                f"got {mask.dtype} {list(mask.shape)}"
            )


def _check_finite(flat: Tensor, z: Tensor) -> None:
    if bool(torch.isfinite(flat.detach().sum())):  # one cheap pass; a sum may overflow, so look closer if it is not
        return
    bad = int((~torch.isfinite(flat).all(-1)).sum())
    if bad:
        raise AnyglotError(
            f"expected finite vectors [..., {z.shape[-1]}], got NaN or infinity in {bad} of {flat.shape[0]} vectors of "
            f"{list(z.shape)}; lower the learning rate or check the input media"
        )


@torch.no_grad()
def codebooks(quantizer: Quantizer) -> list[Tensor]:
    """The vectors of every level's codes, float [size, dim]: what a code alone gives its decoder."""
    found = []
    for level, size in enumerate(quantizer.levels):
        codes = torch.full((size, len(quantizer.levels)), -1, device=quantizer.device)
        codes[:, level] = torch.arange(size, device=quantizer.device)
        found.append(quantizer.decode(codes))
    return found
