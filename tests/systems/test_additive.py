"""Additive and composite quantizers against product and residual ones on held-out real vectors, at equal bytes."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from anyglot.tokenizers.quantizers import Quantizer, build, least_squares
from anyglot.tokenizers.quantizers.local_search import cross_products
from anyglot.tokenizers.quantizers.retrieval import asymmetric_search
from anyglot.tokenizers.quantizers.rotation import pca
from anyglot.tokenizers.quantizers.search import nearest

AQ = {"type": "additive", "levels": 4, "size": 64, "iterations": 5}
PQ = {"type": "pq", "groups": 4, "size": 64}
OPQ = {**PQ, "rotation": "eigenvalue", "learn_rotation": True, "alternations": 10}
RVQ = {"type": "rvq", "levels": 4, "size": 64}


def products(function: Callable[[], Any]) -> int:
    """How many multiplications and additions a call spends in matrix products."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_aq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("aq")
    for baseline in (PQ, RVQ, {**RVQ, "beam": 8}):
        other = train_like("aq", baseline).measured
        assert other.bits == trained.measured.bits
        assert trained.measured.distortion < 0.97 * other.distortion, baseline
    objective = build(trained.config.quantizer, trained.vectors.width).fit(trained.vectors.train[:2000])
    assert all(later <= earlier for earlier, later in itertools.pairwise(objective))


def test_apq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained, aq = train_recipe("apq"), train_recipe("aq")
    opq = train_like("apq", OPQ)
    assert trained.measured.bits == aq.measured.bits == opq.measured.bits
    assert aq.measured.distortion < trained.measured.distortion < 0.97 * opq.measured.distortion
    x = trained.vectors.train
    assert products(lambda: trained.quantizer.encode(x)) < 0.8 * products(lambda: aq.quantizer.encode(x))


def test_lsq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("lsq")
    for baseline in (RVQ, {**AQ, "beam": 1}, {**AQ, "beam": 2}):
        assert trained.measured.distortion < 0.97 * train_like("lsq", baseline).measured.distortion, baseline
    x, before = trained.vectors.heldout, None
    quantizer = copy.deepcopy(trained.quantizer)
    for rounds in (0, 1, 4, 12, 24):
        quantizer.config = replace(quantizer.config, rounds=rounds)
        error = (quantizer.decode(quantizer.encode(x)) - x).square().sum(1)
        assert before is None or ((error <= before * (1 + 1e-6)).all() and error.mean() < before.mean())
        before = error
    sparse = train_like("lsq", {**trained.config.quantizer, "density": 0.5})
    assert (sparse.quantizer.codebooks != 0).float().mean() <= 0.5
    assert sparse.measured.distortion < 1.03 * trained.measured.distortion


def dense_update(codes: Tensor, x: Tensor, codebooks: Tensor, ridge: float) -> Tensor:
    """The codebooks by a dense 0/1 matrix of codes."""
    levels, size, width = codebooks.shape
    chosen = F.one_hot(codes, size).flatten(1).double()
    system = chosen.t() @ chosen + ridge * torch.eye(levels * size, dtype=torch.float64)
    flat = codebooks.reshape(-1, width).double()
    return torch.linalg.solve(system, chosen.t() @ x.double() + ridge * flat).reshape(codebooks.shape).float()


def test_lsqpp(train_recipe: Callable[..., Any]) -> None:
    trained, lsq = train_recipe("lsqpp"), train_recipe("lsq")
    assert trained.measured.distortion < 0.995 * lsq.measured.distortion
    x, books, size = trained.vectors.train, trained.quantizer.codebooks, trained.config.quantizer["size"]
    codes = trained.quantizer.encode(x)

    def update() -> Tensor:
        counts, sums = least_squares.pair_counts(codes, size), least_squares.code_sums(codes, x, size)
        return least_squares.solve(counts, sums, books, 0.01)

    torch.testing.assert_close(update(), dense_update(codes, x, books, 0.01), rtol=1e-3, atol=1e-4)
    assert products(update) < 0.01 * products(lambda: dense_update(codes, x, books, 0.01))


def recall_without_norms(trained: Any) -> tuple[float, float]:
    """recall@10 by exact distances to decoded vectors, and without the inner products between code vectors."""
    queries, database = trained.vectors.heldout, trained.vectors.train
    codes = trained.quantizer.encode(database)
    exact = Quantizer.distances_to_decoded(trained.quantizer, queries, codes)
    truth = nearest(queries, database)[0][:, None]
    kinds = (exact, exact - cross_products(trained.quantizer.codebooks, codes))
    found = [float((kind.topk(10, largest=False).indices == truth).any(1).float().mean()) for kind in kinds]
    return found[0], found[1]


def test_cq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("cq")
    opq, aq = train_like("cq", OPQ), train_like("cq", {**AQ, "beam": 4})
    assert trained.measured.bits == opq.measured.bits == aq.measured.bits
    assert trained.measured.distortion < 0.97 * opq.measured.distortion
    spread = {}
    for name, quantizer in (("cq", trained.quantizer), ("aq", aq.quantizer)):
        spread[name] = float(cross_products(quantizer.codebooks, quantizer.encode(trained.vectors.heldout)).std())
    assert spread["cq"] < 0.05 * spread["aq"]
    with_norms, without = recall_without_norms(trained)
    assert without > 0.96 * with_norms
    assert abs(trained.measured.recall[10] - without) < 0.005  # its own search uses no norms
    with_norms, without = recall_without_norms(aq)
    assert without < 0.5 * with_norms


def test_sq_sparse(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained, dense = train_recipe("sq-sparse"), train_recipe("cq")
    pq, opq = train_like("sq-sparse", PQ), train_like("sq-sparse", OPQ)
    entries = int((trained.quantizer.codebooks != 0).sum())
    assert entries <= 64 * trained.vectors.width  # what product quantization multiplies for a query's table
    assert trained.measured.distortion < 0.97 * opq.measured.distortion < 0.97 * pq.measured.distortion
    assert trained.measured.distortion < 1.03 * dense.measured.distortion
    assert trained.measured.recall[10] > 0.97 * dense.measured.recall[10]


def same_class(trained: Any) -> float:
    """Of the ten nearest training vectors of held-out queries, by their codes: the share of the query's class."""
    vectors = trained.vectors
    found = asymmetric_search(trained.quantizer, vectors.heldout, trained.quantizer.encode(vectors.train), 10)
    return float((vectors.train_labels[found] == vectors.heldout_labels[:, None]).float().mean())


def test_sq_supervised(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("sq-supervised")
    plain = train_like("sq-supervised", {**trained.config.quantizer, "subspace": 0})
    assert trained.measured.bits == plain.measured.bits
    assert same_class(trained) > same_class(plain) + 0.02


def streamed_error(config: dict[str, Any], stream: Tensor) -> float:
    """Mean squared distance over the batches after the offline start, each before its update."""
    quantizer = build(config, stream.shape[1])
    quantizer.fit(stream[:2048])
    batches = stream[2048:].split(256)
    return sum(quantizer.update(batch) * stream.shape[1] * len(batch) for batch in batches) / (len(stream) - 2048)


def test_online_aq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("online-aq")
    online_aq = trained.config.quantizer
    online_pq = {"type": "online_pq", "groups": 4, "size": 32, "start": 2048}
    assert trained.measured.distortion < 0.8 * train_like("online-aq", online_pq).measured.distortion
    x, generator = trained.vectors.train, torch.Generator().manual_seed(0)
    loudness = x @ pca(x)[1][:, 0]
    drifting = x[(loudness + 0.5 * loudness.std() * torch.randn(len(x), generator=generator)).argsort()]
    error = streamed_error({**online_aq, "window": 1500}, drifting)
    assert error < 0.8 * streamed_error({**online_pq, "window": 1500}, drifting)
    steady = x[torch.randperm(len(x), generator=generator)]
    hindsight = build({**AQ, "size": 32, "beam": 8, "iterations": 8}, x.shape[1])
    hindsight.fit(steady)
    best = (hindsight.decode(hindsight.encode(steady[2048:])) - steady[2048:]).square().sum(1).mean()
    assert streamed_error(online_aq, steady) < 1.2 * float(best)
