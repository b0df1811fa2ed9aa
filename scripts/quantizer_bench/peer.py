"""Training steps of ours and of vector-quantize-pytorch, from equal codebooks on equal vectors, in one process."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import vector_quantize_pytorch as peer
from torch import Tensor, nn

from anyglot.tokenizers.quantizers import Quantizer, build
from quantizer_bench.measure import measure, ratios

EMA = {"decay": 0.99, "commitment_weight": 0.25, "rotation_trick": False, "threshold_ema_dead_code": 0}


@dataclass
class Case:
    """cell: what identifies it in the results; "N" vectors of width "D". make_peer: None where the peer does not fit
    into memory. share: gives the peer our codebooks. order: the peer's codes in our numbering."""

    cell: dict[str, Any]
    config: dict[str, Any]
    make_peer: Callable[[], nn.Module] | None
    share: Callable[[Quantizer, Any], None] = lambda ours, other: None
    order: Callable[[Tensor], Tensor] = lambda codes: codes


def vq(size: int, dim: int, vectors: int, alone: bool = False, **options: Any) -> Case:
    def share(ours: Any, other: Any) -> None:
        other._codebook.embed.data.copy_(ours.codebook.vectors()[None])

    config = {"type": "vq", "size": size, "decay": 0.99, "kmeans_init": False, "reset_below": 0.0}
    if options.get("use_cosine_sim"):
        config["metric"] = "cosine"
    make = None if alone else lambda: peer.VectorQuantize(dim=dim, codebook_size=size, **EMA, **options)
    return Case({"K": size, "D": dim, "N": vectors}, config, make, share)


def residual(levels: int, size: int, dim: int, vectors: int) -> Case:
    inner = vq(size, dim, vectors)

    def share(ours: Any, other: Any) -> None:
        for level, layer in zip(ours.stack, other.layers, strict=True):
            inner.share(level, layer)

    config = {"type": "residual", "levels": levels, "inner": inner.config}
    make = lambda: peer.ResidualVQ(dim=dim, codebook_size=size, num_quantizers=levels, **EMA)  # noqa: E731
    return Case({"levels": levels, **inner.cell}, config, make, share)


def simvq(size: int, dim: int, vectors: int) -> Case:
    def share(ours: Any, other: Any) -> None:
        other.frozen_codebook.copy_(ours.codebook.fixed)
        other.code_transform.weight.data.copy_(ours.codebook.map.weight)
        ours.codebook.map.bias.data.zero_()  # the peer has none

    config = {"type": "vq", "size": size, "codebook": "linear", "kmeans_init": False, "reset_below": 0.0}
    make = lambda: peer.SimVQ(dim=dim, codebook_size=size, rotation_trick=False)  # noqa: E731
    return Case({"K": size, "D": dim, "N": vectors}, config, make, share)


def fsq(sizes: list[int], vectors: int) -> Case:
    return Case(
        {"sizes": sizes, "D": len(sizes), "N": vectors}, {"type": "fsq", "sizes": sizes}, lambda: peer.FSQ(sizes)
    )


def bits(kind: str, count: int, vectors: int, alone: bool = False) -> Case:
    """LFQ and BSQ. The peer packs bits highest first."""
    options = {"dim": count, "codebook_size": 2**count, "entropy_loss_weight": 0.1, "commitment_loss_weight": 0.25}
    make = None if alone else lambda: peer.LFQ(**options, spherical=kind == "bsq")
    return Case(
        {"bits": count, "D": count, "N": vectors},
        {"type": kind, "bits": count},
        make,
        order=lambda codes: sum(((codes >> bit) & 1) << (count - 1 - bit) for bit in range(count)),
    )


def compare(case: Case, seed: int, device: torch.device) -> dict[str, Any]:
    """One row: the cell, what a step costs ours and the peer, and for how many vectors the codes are equal.

    A step is forward, backward and codebook update; codes are those of the first step.
    """
    torch.manual_seed(seed)
    ours = build(case.config, case.cell["D"]).to(device)
    z = torch.randn(1, case.cell["N"], case.cell["D"], device=device, requires_grad=True)
    _our_step(ours, z[:, :64])  # first calls set up threads and buffers
    if case.make_peer is None:
        return {**case.cell, **measure(lambda: _our_step(ours, z), device)[0].to_json()}
    other = case.make_peer().to(device)
    _peer_step(other, z[:, :64])
    case.share(ours, other)
    before = copy.deepcopy(ours).eval()
    cost, our_codes = measure(lambda: _our_step(ours, z), device)
    peer_cost, peer_codes = measure(lambda: _peer_step(other, z), device)
    peer_codes = case.order(peer_codes).view_as(our_codes)
    equal = (our_codes == peer_codes).all(-1)
    row = {**case.cell, "codes_equal": equal.float().mean().item()}
    if case.config["type"] == "vq" and not bool(equal.all()):
        row["ours_nearer"], row["peer_nearer"] = _nearer(before, z[~equal], our_codes[~equal], peer_codes[~equal])
    return {**row, **cost.to_json(), **peer_cost.to_json("peer_"), **ratios(cost, peer_cost)}


@torch.no_grad()
def _nearer(ours: Quantizer, z: Tensor, our_codes: Tensor, peer_codes: Tensor) -> tuple[int, int]:
    """Where codes differ: how often ours is nearer, and how often the peer's, in float64."""
    h = ours.bound(z).double()
    ours_at, peer_at = ((h - ours.decode(codes).double()).square().sum(1) for codes in (our_codes, peer_codes))
    return int((ours_at < peer_at).sum()), int((peer_at < ours_at).sum())


def _our_step(quantizer: Quantizer, z: Tensor) -> Tensor:
    result = quantizer(z)
    (quantizer.loss(result) + result.vectors.sum()).backward()
    return result.codes


def _peer_step(quantizer: nn.Module, z: Tensor) -> Tensor:
    vectors, codes, *losses = quantizer(z)
    (vectors.sum() + sum(loss.sum() for loss in losses)).backward()
    return codes
