"""Residual quantizers fitted offline: each recipe's claim, on held-out vectors, against its baseline at equal bytes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.pairwise import decode_by_tables, fit_tables

Train = Callable[..., Any]


def plain_rvq(trained: Any, **changes: Any) -> dict[str, Any]:
    """Greedy staged k-means with as many codes as the recipe's quantizer."""
    quantizer = trained.config.quantizer
    return {"type": "rvq", "size": quantizer["size"], "levels": quantizer["levels"], **changes}


def objective(trained: Any) -> list[float]:
    """The recipe's objective after each step of fitting it again."""
    quantizer = build(trained.config.quantizer, trained.vectors.width)
    return quantizer.fit(trained.vectors.train)


def squared_error(vectors: Tensor, decoded: Tensor) -> float:
    return float((vectors - decoded).square().sum(1).mean())


def never_rises(values: list[float]) -> bool:
    return all(after <= before * (1 + 1e-6) for before, after in pairwise(values))


def test_rvq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("rvq")
    heldout, codes = trained.vectors.heldout, trained.quantizer.encode(trained.vectors.heldout)
    prefixes = [torch.where(torch.arange(4) < depth, codes, -1) for depth in range(5)]
    errors = [squared_error(heldout, trained.quantizer.decode(prefix)) for prefix in prefixes]
    assert all(after < 0.9 * before for before, after in pairwise(errors))
    product = train_like("rvq", {"type": "pq", "groups": 4, "size": 64})
    assert trained.measured.bits == product.measured.bits
    assert trained.measured.distortion < 0.9 * product.measured.distortion
    assert trained.measured.recall[1] > product.measured.recall[1]


def test_sq_stacked(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("sq-stacked")
    plain = train_like("sq-stacked", plain_rvq(trained))
    assert trained.measured.distortion < 0.98 * plain.measured.distortion
    assert trained.quantizer.config.beam == plain.quantizer.config.beam == 1
    assert never_rises(objective(trained))


def test_irvq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("irvq")
    plain = train_like("irvq", plain_rvq(trained))
    one_path = train_like("irvq", {**trained.config.quantizer, "beam": 1})
    bits, plain_bits = (sum(level.bits for level in found.measured.health) for found in (one_path, plain))
    assert bits > 1.15 * plain_bits
    assert trained.measured.distortion < one_path.measured.distortion < plain.measured.distortion
    assert trained.measured.recall[1] >= plain.measured.recall[1]


def test_ervq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("ervq")
    plain = train_like("ervq", plain_rvq(trained))
    assert trained.measured.distortion < 0.98 * plain.measured.distortion
    history = objective(trained)
    assert never_rises(history)
    assert history[-1] < 0.98 * history[trained.config.quantizer["levels"] - 1]  # where RVQ ended


def test_grvq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("grvq")
    improved = train_like("grvq", {**trained.config.quantizer, "refine": "none", "sweeps": 0})  # IRVQ
    plain = train_like("grvq", plain_rvq(trained))
    assert never_rises(objective(trained))
    assert trained.measured.distortion < 0.99 * improved.measured.distortion
    assert trained.measured.distortion < 0.95 * plain.measured.distortion
    assert trained.measured.recall[1] >= plain.measured.recall[1]


def test_compq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("compq")
    by_stages = train_like("compq", plain_rvq(trained, beam=2))
    assert trained.measured.distortion < 0.95 * by_stages.measured.distortion
    assert trained.measured.recall[1] >= by_stages.measured.recall[1]
    history = objective(trained)  # of each epoch, as it came
    assert history[-1] < 0.97 * history[0]


def test_prvq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("prvq")
    plain = train_like("prvq", plain_rvq(trained))
    for codebook in trained.quantizer.codebooks:  # the code vectors of a stage span so many dimensions
        assert torch.linalg.matrix_rank(codebook - codebook.mean(0), rtol=1e-4) <= trained.config.quantizer["axes"]
    assert trained.measured.distortion < 0.99 * plain.measured.distortion
    assert trained.measured.recall[1] > plain.measured.recall[1]


def test_trq(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("trq")
    plain = train_like("trq", plain_rvq(trained))
    assert trained.measured.distortion < 0.95 * plain.measured.distortion
    assert trained.measured.recall[1] >= plain.measured.recall[1]
    for rotation in trained.quantizer.rotations.flatten(0, 1):
        torch.testing.assert_close(rotation @ rotation.t(), torch.eye(80), atol=1e-4, rtol=0)


def test_rvq_p(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("rvq-p")
    quantizer = trained.config.quantizer
    product = {"type": "pq", "groups": quantizer["levels"], "size": quantizer["size"]}
    for baseline in (
        product,
        {**product, "rotation": "eigenvalue", "learn_rotation": True, "alternations": 10},  # OPQ
    ):
        found = train_like("rvq-p", baseline)
        assert found.measured.bits == trained.measured.bits
        assert trained.measured.distortion < 0.995 * found.measured.distortion
        assert trained.measured.recall[1] >= found.measured.recall[1]
    plain = train_like("rvq-p", plain_rvq(trained))  # of full width: twice the work for each code
    assert trained.measured.distortion < 1.02 * plain.measured.distortion
    assert trained.measured.recall[1] >= plain.measured.recall[1]


def test_rvq_np(train_recipe: Train, train_like: Train) -> None:
    trained, parametric = train_recipe("rvq-np"), train_recipe("rvq-p")
    plain = train_like("rvq-np", plain_rvq(trained))
    assert trained.measured.distortion < 0.99 * parametric.measured.distortion
    assert trained.measured.distortion < 0.99 * plain.measured.distortion
    assert trained.measured.recall[1] >= plain.measured.recall[1]
    assert never_rises(objective(trained))


def test_qinco(train_recipe: Train, train_like: Train) -> None:
    trained = train_recipe("qinco")
    for start in ("kmeans", "subspace"):  # the second is where its codebooks start
        plain = train_like("qinco", plain_rvq(trained, start=start))
        assert trained.measured.distortion < 0.95 * plain.measured.distortion
        assert trained.measured.recall[1] >= plain.measured.recall[1]


def test_qinco2(train_recipe: Train) -> None:
    trained, before = train_recipe("qinco2"), train_recipe("qinco")
    assert trained.measured.bits == before.measured.bits
    assert trained.measured.distortion < 0.98 * before.measured.distortion
    quantizer, train, heldout = trained.quantizer, trained.vectors.train, trained.vectors.heldout
    codes = quantizer.encode(heldout)
    tables = fit_tables(train, quantizer.encode(train), quantizer.levels[0], 0)
    additive = decode_by_tables(codes, *tables)
    looked_up = quantizer.approximate(codes)
    assert squared_error(heldout, looked_up) < 0.98 * squared_error(heldout, additive)
    # Of five database entries that pairs of codes shortlist, one is more often as near as decoding them all would find.
    queries, database = heldout[:500], quantizer.encode(train)
    exact = quantizer.distances(queries, database)

    def found_by(decoded: Tensor) -> float:
        short = torch.cdist(queries, decoded).topk(5, largest=False).indices
        return float((exact.gather(1, short).amin(1) <= exact.amin(1) * (1 + 1e-5)).float().mean())

    assert found_by(quantizer.approximate(database)) > max(0.8, found_by(decode_by_tables(database, *tables)))
