"""Faults that a review found, each with the smallest case that showed it."""

import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build, soft_assignment, store
from anyglot.tokenizers.quantizers.search import nearest
from tests.tokenizers.quantizers.cases import CONFIGS, DIM

PQ = {"type": "pq", "groups": 2, "size": 8}


def data(count: int = 300, dim: int = 8) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "product", "groups": 1, "inner": {"type": "vq", "size": 8, "kmeans_init": False}},
        {"type": "dpq", "size": 8},
        {"type": "hyperbolic", "size": 8},
        {"type": "hqa", "cells": [1], "size": 8},
    ],
    ids=lambda inner: inner["type"],
)
def test_a_gradient_is_not_counted_once_per_level(inner: dict) -> None:
    with pytest.raises(ConfigError, match="gradient of its own"):
        build({"type": "residual", "levels": 3, "inner": inner}, 8)


def test_the_gradient_of_an_inner_quantizer_is_the_stack_s() -> None:
    with pytest.raises(ConfigError, match="here.gradient instead"):
        build({"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8, "gradient": "rotation"}}, 8, "here")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_quantizer_can_be_stored(name: str, tmp_path) -> None:
    """A tied DPQ shared its memory between two names, which safetensors refuses."""
    quantizer = build(CONFIGS[name], DIM)
    store.save(quantizer, CONFIGS[name], tmp_path / "q")
    again = store.load(tmp_path / "q")
    assert again.state_dict().keys() == quantizer.state_dict().keys()


@pytest.mark.parametrize("setting", ["cuda", "mkldnn"])
def test_reduced_precision_set_by_either_interface_is_switched_off_and_restored(setting: str) -> None:
    backend = getattr(torch.backends, setting).matmul
    before = backend.fp32_precision
    vectors, codes = data(2000, 32), data(500, 32)
    expected = nearest(vectors, codes)[0]
    backend.fp32_precision = "tf32"
    try:
        assert torch.equal(nearest(vectors, codes)[0], expected)
        build({"type": "fsq", "sizes": [8, 5, 5]}, 8)(data())
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


@pytest.mark.parametrize(
    "config",
    [
        {
            "type": "soft",
            "size": 16,
            "temperature": 1.0,
            "final_temperature": 0.05,
            "anneal_steps": 2,
            "kmeans_init": False,
        },
        {"type": "sq_vae", "size": 16, "temperature": 1.0, "final_temperature": 0.05, "anneal_steps": 2},
    ],
    ids=lambda config: config["type"],
)
def test_chunks_are_computed_anew_with_the_temperature_they_had(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for limit in (1 << 22, 16 * 10):  # whole, and ten vectors at once
        monkeypatch.setattr(soft_assignment, "LIMIT", limit)
        torch.manual_seed(0)
        quantizer = build(config, 8)
        z = data(40).requires_grad_()
        torch.manual_seed(1)
        noise = torch.rand
        monkeypatch.setattr(
            torch,
            "rand",
            lambda *size, **options: torch.full(
                size[0] if len(size) == 1 and not isinstance(size[0], int) else size, 0.5
            ),
        )
        monkeypatch.setattr(torch, "rand_like", lambda x, **options: torch.full_like(x, 0.5))
        quantizer(z).vectors.square().sum().backward()
        monkeypatch.setattr(torch, "rand", noise)
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "config", [PQ, {**PQ, "rotation": "pca"}, {**PQ, "levels": 2}], ids=["pq", "rotated", "levels"]
)
def test_distances_know_codes_of_none(config: dict) -> None:
    quantizer = build(config, 8)
    quantizer.fit(data())
    queries, codes = data(5), quantizer.encode(data(20))
    codes[3, 0] = -1
    expected = (queries[:, None] - quantizer.decode(codes)).square().sum(-1)
    torch.testing.assert_close(quantizer.distances(queries, codes), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AnyglotError, match="must lie in 0"):
        quantizer.distances(queries, codes + 8)


@pytest.mark.parametrize("kind", ["pq", "lopq", "additive", "composite", "rvq"])
def test_distances_are_refused_before_fitting_and_exact_under_autocast(kind: str) -> None:
    options = {"pq": PQ, "lopq": {"type": "lopq", "cells": 2, "groups": 2, "size": 8}}
    config = options.get(kind, {"type": kind, "levels": 2, "size": 8})
    quantizer = build(config, 8)
    with pytest.raises(AnyglotError, match="has not been fitted"):
        quantizer.distances(data(5), torch.zeros(3, len(quantizer.levels), dtype=torch.int64))
    quantizer.fit(data())
    codes = quantizer.encode(data(20))
    plain = quantizer.distances(data(5), codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.distances(data(5), codes), plain)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_qinco_takes_any_number_of_steps(steps: int) -> None:
    quantizer = build({"type": "qinco", "size": 8, "levels": 2, "epochs": steps, "batch_size": 64}, 8)
    quantizer.fit(data(60))
    assert quantizer.ready


def test_a_fit_that_breaks_says_so() -> None:
    same = torch.ones(40, 8)
    quantizer = build({"type": "deep_pq", "groups": 2, "size": 8, "epochs": 1}, 8)
    with pytest.raises(AnyglotError, match="NaN or infinity in"):
        quantizer.fit(same, torch.arange(40) % 4)
    assert not quantizer.ready


def test_fitting_again_gives_the_same() -> None:
    config = {"type": "online_additive", "levels": 4, "size": 16, "start": 128, "batch": 64}
    quantizer = build(config, 8)
    states = []
    for _ in range(2):
        quantizer.fit(data())
        states.append({name: tensor.clone() for name, tensor in quantizer.state_dict().items()})
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_long_stream_with_a_small_ridge_stays_solvable() -> None:
    config = {"type": "online_additive", "levels": 4, "size": 4, "start": 256, "batch": 1000, "window": 20000}
    quantizer = build({**config, "ridge": 1e-5}, 4)
    quantizer.fit(data(256, 4))
    for step in range(30):
        quantizer.update(torch.randn(1000, 4, generator=torch.Generator().manual_seed(step)))
    assert quantizer.codebooks.isfinite().all()
