"""PQ and its family: each claim on real vectors that were not trained on, against its baseline in as many bytes."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.tokenizers.quantizers import Quantizer, build
from anyglot.tokenizers.quantizers.search import nearest

Train = Callable[..., Any]
PQ = {"type": "pq", "groups": 8, "size": 16}


def distortion(quantizer: Quantizer, vectors: Tensor) -> float:
    return float((quantizer.decode(quantizer.encode(vectors)) - vectors).square().sum(1).mean())


def objective(name: str, trained: Any) -> list[float]:
    """The objective while the recipe is fitted anew."""
    found = build(trained.config.quantizer, trained.vectors.width).fit(trained.vectors.train)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(found)), name
    return found


def mean_average_precision(quantizer: Quantizer, vectors: Any) -> float:
    """How well held-out queries find training vectors of their class, by the codes of those alone."""
    known = torch.isin(vectors.heldout_labels, vectors.train_labels)
    found = quantizer.distances(vectors.heldout[known], quantizer.encode(vectors.train)).argsort(1)
    hit = (vectors.train_labels[found] == vectors.heldout_labels[known][:, None]).float()
    precision = hit.cumsum(1) / torch.arange(1, hit.shape[1] + 1)
    return float(((precision * hit).sum(1) / hit.sum(1)).mean())


def test_pq(train_recipe: Train, train_like: Train) -> None:
    pq = train_recipe("pq")
    codebook = pq.quantizer.codebooks
    assert codebook.numel() == 16 * pq.vectors.width
    assert pq.measured.distortion < 0.5 * train_like("pq", {**PQ, "groups": 1}).measured.distortion
    large = train_like("pq", {**PQ, "groups": 1, "size": 256})
    assert pq.measured.distortion < large.measured.distortion
    assert pq.measured.recall[1] > large.measured.recall[1]
    assert pq.measured.recall[100] > 0.9
    # Every product is a code vector: codes of unlike vectors, group by group, decode to their parts.
    codes = pq.quantizer.encode(pq.vectors.heldout[:2])
    mixed = torch.where(torch.arange(8) < 4, codes[0], codes[1])
    parts = pq.quantizer.decode(codes)
    assert torch.equal(pq.quantizer.decode(mixed), torch.where(torch.arange(80) < 40, parts[0], parts[1]))


def test_opq(train_recipe: Train, train_like: Train) -> None:
    opq = train_recipe("opq")
    objective("opq", opq)
    parametric = train_like("opq", {**PQ, "rotation": "eigenvalue"}).measured
    assert opq.measured.distortion < parametric.distortion < train_recipe("pq").measured.distortion
    assert opq.measured.distortion < 0.75 * train_recipe("pq").measured.distortion
    assert opq.measured.recall[1] > train_recipe("pq").measured.recall[1]
    rotation = opq.quantizer.rotation
    torch.testing.assert_close(rotation @ rotation.t(), torch.eye(len(rotation)), atol=1e-5, rtol=0)


def test_ckm(train_recipe: Train) -> None:
    ckm = train_recipe("ckm")
    found = objective("ckm", ckm)
    assert found[-1] < 0.8 * found[0]
    assert ckm.measured.distortion < 0.85 * train_recipe("pq").measured.distortion


def test_ockm(train_recipe: Train) -> None:
    ockm, ckm = train_recipe("ockm"), train_recipe("ckm")
    assert ockm.measured.bits == ckm.measured.bits == 32
    objective("ockm", ockm)
    assert ockm.measured.distortion < 0.9 * ckm.measured.distortion


def test_rvpq(train_recipe: Train, train_like: Train) -> None:
    rvpq, pq = train_recipe("rvpq"), train_like("rvpq", PQ)
    assert rvpq.measured.bits == pq.measured.bits == 32
    objective("rvpq", rvpq)
    assert rvpq.measured.distortion < 0.85 * pq.measured.distortion
    staged = train_like("rvpq", {**rvpq.config.quantizer, "alternations": 0})
    assert rvpq.measured.distortion < 0.98 * staged.measured.distortion


def test_vaq(train_recipe: Train, train_like: Train) -> None:
    vaq = train_recipe("vaq")
    assert vaq.measured.bits == 32
    bits = vaq.quantizer.bits.tolist()
    assert bits == sorted(bits, reverse=True)
    assert max(bits) == 10
    rotated = {"rotation": "eigenvalue", "learn_rotation": True, "alternations": 5}
    for groups, size in ((8, 16), (16, 4)):
        for rotation in ({}, rotated):
            other = train_like("vaq", {**PQ, "groups": groups, "size": size, **rotation})
            assert other.measured.bits == 32
            assert vaq.measured.distortion < 0.98 * other.measured.distortion


def test_ptq(train_recipe: Train) -> None:
    ptq, pq = train_recipe("ptq"), train_recipe("pq")
    objective("ptq", ptq)
    assert ptq.measured.bits == 28 < pq.measured.bits
    assert ptq.measured.distortion < 0.8 * pq.measured.distortion


def test_lopq(train_recipe: Train, train_like: Train) -> None:
    lopq = train_recipe("lopq")
    one, none = (
        train_like("lopq", {**lopq.config.quantizer, "rotation": rotation}).measured for rotation in ("global", "none")
    )
    assert lopq.measured.distortion < 0.95 * one.distortion < 0.9 * none.distortion
    assert lopq.measured.recall[1] > none.recall[1]


def drifting(trained: Any) -> tuple[Tensor, Tensor]:
    """Image patches from dark to bright: the first ones, to start with, and the stream that follows."""
    vectors = trained.vectors.train
    ordered = vectors[vectors.mean(1).argsort(stable=True)]
    start = trained.config.quantizer["start"]
    return ordered[:start], ordered[start:]


def follow(mapping: dict[str, Any], first: Tensor, stream: Tensor) -> float:
    """Mean error of each batch of a stream before the update with it."""
    quantizer = build(mapping, first.shape[1])
    quantizer.fit(first)
    errors = []
    for batch in stream.split(mapping["batch"]):
        before = quantizer.codebooks.clone()
        errors.append(quantizer.update(batch) * len(batch))
        changed = (quantizer.codebooks != before).any(-1)[:, 0]  # [groups, size]
        assert int(changed.any(1).sum()) <= (mapping["group_budget"] or mapping["groups"])
        assert int(changed.sum(1).max()) <= (mapping["code_budget"] or mapping["size"])
        assert changed.any()
    return sum(errors) / len(stream)


def frozen(mapping: dict[str, Any], first: Tensor, stream: Tensor) -> float:
    quantizer = build(mapping, first.shape[1])
    quantizer.fit(first)
    return distortion(quantizer, stream) / first.shape[1]


def test_online_pq(train_recipe: Train) -> None:
    trained = train_recipe("online-pq")
    mapping, (first, stream) = trained.config.quantizer, drifting(trained)
    online, fixed = follow(mapping, first, stream), frozen(mapping, first, stream)
    assert online < 0.67 * fixed
    # Budgets cost something, and less than not following at all.
    free = follow({**mapping, "group_budget": 0, "code_budget": 0}, first, stream)
    tight = follow({**mapping, "group_budget": 1, "code_budget": 1}, first, stream)
    assert free <= online < tight < fixed


def test_online_opq(train_recipe: Train) -> None:
    trained = train_recipe("online-opq")
    mapping, (first, stream) = trained.config.quantizer, drifting(trained)
    online = follow(mapping, first, stream)
    assert online < 0.85 * follow({**mapping, "rotation": "none"}, first, stream)
    assert online < 0.67 * frozen(mapping, first, stream)


@pytest.fixture(scope="module")
def unsupervised(train_recipe: Train) -> Callable[[int, bool], float]:
    """Mean average precision of PQ or OPQ on the texts, in so many groups of 16 codes."""

    def run(groups: int, rotated: bool) -> float:
        vectors = train_recipe("dpq-deep").vectors
        rotation = {"rotation": "eigenvalue", "learn_rotation": True, "alternations": 5} if rotated else {}
        quantizer = build({**PQ, "groups": groups, **rotation}, vectors.width)
        quantizer.fit(vectors.train)
        return mean_average_precision(quantizer, vectors)

    return run


def test_hihpq(train_recipe: Train, unsupervised: Callable[[int, bool], float]) -> None:
    hihpq = train_recipe("hihpq")
    assert hihpq.measured.bits == 8
    assert mean_average_precision(hihpq.quantizer, hihpq.vectors) > 1.05 * unsupervised(2, False)


def test_dpq_deep(train_recipe: Train, unsupervised: Callable[[int, bool], float]) -> None:
    deep = train_recipe("dpq-deep")
    found = mean_average_precision(deep.quantizer, deep.vectors)
    assert found > 1.3 * unsupervised(4, False)
    # Hard codes of the query do nearly as well as its soft representation: the two heads agree.
    features = deep.quantizer.features
    known = torch.isin(deep.vectors.heldout_labels, deep.vectors.train_labels)
    queries, database = (features(deep.quantizer.encode(x)) for x in (deep.vectors.heldout[known], deep.vectors.train))
    first = deep.vectors.train_labels[nearest(queries, database)[0]]
    assert (first == deep.vectors.heldout_labels[known]).float().mean() > 0.7


def test_dopq(train_recipe: Train, unsupervised: Callable[[int, bool], float]) -> None:
    dopq = train_recipe("dopq")
    assert mean_average_precision(dopq.quantizer, dopq.vectors) > 1.2 * unsupervised(4, True)
    rotation = dopq.quantizer.rotation
    torch.testing.assert_close(rotation @ rotation.t(), torch.eye(len(rotation)), atol=1e-4, rtol=0)


def test_dpq_differentiable(train_recipe: Train) -> None:
    recipe = train_recipe("dpq-differentiable")
    vectors = recipe.vectors
    assert vectors.width * 4 == 1536
    assert recipe.measured.bits == 16
    classes, target = torch.unique(vectors.train_labels, return_inverse=True)
    known = torch.isin(vectors.heldout_labels, classes)
    heldout, truth = vectors.heldout[known], torch.searchsorted(classes, vectors.heldout_labels[known])
    mean, scale = vectors.train.mean(0), vectors.train.std()

    def task_error(quantizer: Quantizer, parameters: list[nn.Parameter], lr: float) -> float:
        """Error on held-out texts of a classifier of quantized ones, trained along with these parameters."""
        torch.manual_seed(0)
        classifier = nn.Linear(vectors.width, len(classes))
        optimizer = torch.optim.Adam([*classifier.parameters(), *parameters], lr)
        for _ in range(400):
            rows = torch.randint(len(target), (256,))
            quantized = quantizer((vectors.train[rows] - mean) / scale).vectors
            loss = F.cross_entropy(classifier(quantized), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float((classifier(quantizer((heldout - mean) / scale).vectors).argmax(1) != truth).float().mean())

    torch.manual_seed(0)
    dpq = build(recipe.config.quantizer, vectors.width)
    together = task_error(dpq, list(dpq.parameters()), 3e-3)
    for rotation, margin in (({}, 0.75), ({"rotation": "eigenvalue", "learn_rotation": True, "alternations": 5}, 0.95)):
        pq = build({**PQ, "groups": 4, **rotation}, vectors.width)
        pq.fit((vectors.train - mean) / scale)
        assert math.prod(pq.levels) == math.prod(dpq.levels)
        assert together < margin * task_error(pq, [], 1e-2)
