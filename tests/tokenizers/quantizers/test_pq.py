"""Fitted product quantizers against slow and obvious twins."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers import online_pq as online_module
from anyglot.tokenizers.quantizers.subspaces import Subspaces, sum_lookups

PQ = {"type": "pq", "groups": 4, "size": 16}
ROTATED = {**PQ, "rotation": "eigenvalue", "learn_rotation": True, "alternations": 6}
ADDITIVE = {**PQ, "groups": 2, "levels": 2, "alternations": 4}
ONLINE = {"type": "online_pq", "groups": 4, "size": 16, "start": 256, "batch": 64, "window": 300}
FITTED = {
    "pq": PQ,
    "unequal": {**PQ, "groups": 5},
    "opq": ROTATED,
    "ckm": {**PQ, "groups": 5, "learn_rotation": True, "alternations": 6},
    "pca": {**PQ, "rotation": "pca"},
    "rvpq": ADDITIVE,
    "ockm": {**ADDITIVE, "rotation": "eigenvalue", "learn_rotation": True},
    "vaq": {**PQ, "rotation": "pca", "allocation": "variance", "most": 256},
    "lopq": {"type": "lopq", "cells": 5, "groups": 4, "size": 16},
    "lopq_global": {"type": "lopq", "cells": 5, "groups": 4, "size": 16, "rotation": "global"},
    "ptq": {"type": "ptq", "parts": [1, 2, 4], "size": 16, "alternations": 3},
    "online_pq": ONLINE,
    "online_opq": {**ONLINE, "rotation": "follow"},
}


def correlated(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) * 0.7 ** torch.arange(12)
    return torch.randn(count, 12, generator=generator) @ mix.t() + 1


def fitted(mapping: dict[str, Any], vectors: Tensor | None = None) -> Any:
    quantizer = build(mapping, 12)
    quantizer.fit(correlated(1000) if vectors is None else vectors)
    return quantizer.eval()


def distortion(quantizer: Any, vectors: Tensor) -> float:
    return float((quantizer.decode(quantizer.encode(vectors)) - vectors).square().sum(1).mean())


@pytest.mark.parametrize("name", FITTED)
def test_distances_by_look_ups_equal_those_to_decoded_vectors(name: str) -> None:
    quantizer = fitted(FITTED[name])
    queries, codes = correlated(9, seed=5), quantizer.encode(correlated(300, seed=6))
    brute = torch.cdist(queries.double(), quantizer.decode(codes).double()).square()
    torch.testing.assert_close(quantizer.distances(queries, codes).double(), brute, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in FITTED if "online" not in name])
def test_objective_never_rises_and_is_the_error(name: str) -> None:
    vectors = correlated(1000)
    quantizer = build(FITTED[name], 12)
    reported: list[float] = []
    objective = quantizer.fit(vectors, report=lambda done, total, error: reported.append(error))
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(objective))
    assert reported == objective
    assert distortion(quantizer, vectors) <= objective[-1] * 12 * 1.02  # codes are chosen anew, codebooks fitted last


@pytest.mark.parametrize("name", FITTED)
def test_the_same_vectors_give_the_same_quantizer(name: str) -> None:
    torch.manual_seed(1)
    one = fitted(FITTED[name])
    torch.manual_seed(2)
    for key, value in fitted(FITTED[name]).state_dict().items():
        assert torch.equal(value, one.state_dict()[key]), key


def test_pq_is_k_means_in_every_group() -> None:
    quantizer = fitted(PQ)
    z = correlated(200, seed=3)
    for group, part in enumerate(z.split(3, 1)):
        book = quantizer.codebooks[group, 0]
        nearest = torch.cdist(part, book).argmin(1)
        assert torch.equal(quantizer.encode(z)[:, group], nearest)
        assert torch.equal(quantizer.decode(quantizer.encode(z))[:, 3 * group : 3 * group + 3], book[nearest])


def test_each_option_distorts_less_than_the_one_before() -> None:
    x = correlated(3000)
    y = correlated(2000, seed=9)
    errors = [distortion(fitted(FITTED[name], x), y) for name in ("pq", "opq", "ockm")]
    assert errors[0] > 1.2 * errors[1]
    assert errors[1] > 1.05 * errors[2]


def test_a_wider_beam_and_more_levels_are_never_worse() -> None:
    x = correlated(1000)
    quantizer = fitted({**ADDITIVE, "alternations": 2})
    errors = []
    for beam in (1, 2, 4, 16):
        quantizer.config.beam = beam
        errors.append((quantizer.decode(quantizer.encode(x)) - x).square().sum(1))
    assert all((wide <= narrow + 1e-4).all() for narrow, wide in pairwise(errors))
    levels = [distortion(fitted({**ADDITIVE, "levels": count}), x) for count in (1, 2, 3)]
    assert levels[0] > levels[1] > levels[2]


def test_bits_go_where_the_variance_is() -> None:
    x = torch.randn(2000, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [8.0] * 3 + [1.0] * 6 + [0.01] * 3
    )
    quantizer = fitted(FITTED["vaq"], x)
    assert quantizer.levels == (256, 16, 16, 1) or sum(quantizer.bits.tolist()) == 16
    assert quantizer.bits.tolist() == sorted(quantizer.bits.tolist(), reverse=True)
    assert quantizer.bits[3] == 0
    again = build(FITTED["vaq"], 12)
    again.load_state_dict(quantizer.state_dict())
    assert again.levels == quantizer.levels
    assert torch.equal(again.encode(x), quantizer.encode(x))


@pytest.mark.parametrize(("dim", "groups"), [(12, 4), (13, 4), (7, 7), (5, 2)])
def test_subspaces_split_and_join(dim: int, groups: int) -> None:
    spaces = Subspaces(dim, groups)
    x = torch.randn(6, dim)
    parts = spaces.split(x)
    assert parts.shape == (groups, 6, -(-dim // groups))
    assert torch.equal(spaces.join(parts), x)
    torch.testing.assert_close(parts.square().sum((0, 2)), x.square().sum(1))
    assert sum(spaces.widths) == dim
    assert max(spaces.widths) - min(spaces.widths) <= 1


def test_look_ups_are_sums_of_table_entries() -> None:
    tables, codes = torch.randn(3, 4, 5), torch.randint(0, 5, (7, 4))
    expected = sum(tables[:, level][:, codes[:, level]] for level in range(4))
    torch.testing.assert_close(sum_lookups(tables, codes), expected)


def test_lopq_gives_every_cell_its_own_axes() -> None:
    """Two clusters with their variance along different axes: one rotation cannot suit both."""
    generator = torch.Generator().manual_seed(0)
    spreads = torch.tensor([[4.0] * 3 + [0.1] * 9, [0.1] * 9 + [4.0] * 3])
    x = torch.cat([torch.randn(1000, 12, generator=generator) * spread + 40 * i for i, spread in enumerate(spreads)])
    config = {"type": "lopq", "cells": 2, "groups": 4, "size": 8}
    local, one = (distortion(fitted({**config, "rotation": name}, x), x) for name in ("local", "global"))
    assert local < 0.7 * one


def test_online_means_are_running_means() -> None:
    """Without window and budgets a code is the mean of all vectors that it was ever given."""
    stream = correlated(640)
    config = {**ONLINE, "window": 0}
    quantizer = fitted(config, stream[:256])
    sums = quantizer.codebooks[:, 0] * quantizer.counts[..., None]
    counts = quantizer.counts.clone()
    for batch in stream[256:].split(64):
        codes, parts = quantizer.encode(batch), quantizer.subspaces.split(batch)
        for group in range(4):
            sums[group].index_add_(0, codes[:, group], parts[group])
            counts[group] += torch.bincount(codes[:, group], minlength=16)
        quantizer.update(batch)
    torch.testing.assert_close(quantizer.counts, counts)
    torch.testing.assert_close(quantizer.codebooks[:, 0], sums / counts[..., None], atol=1e-4, rtol=1e-4)
    whole = fitted(config, stream)
    torch.testing.assert_close(whole.codebooks, quantizer.codebooks)


@pytest.mark.parametrize("name", ["online_pq", "online_opq"])
def test_two_ranks_follow_as_one_on_the_joined_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second rank adds in each sum over ranks is recorded first."""
    start, mine, others = correlated(300), correlated(40, seed=2), correlated(25, seed=3)
    sent: list[Tensor] = []
    monkeypatch.setattr(online_module, "all_reduce", lambda tensor: sent.append(tensor.clone()) or tensor)
    fitted(FITTED[name], start[:256]).update(others)
    rank = fitted(FITTED[name], start[:256])
    received = iter(sent)
    monkeypatch.setattr(online_module, "all_reduce", lambda tensor: tensor.add_(next(received)))
    error = rank.update(mine)
    monkeypatch.undo()
    one = fitted(FITTED[name], start[:256])
    assert one.update(torch.cat([mine, others])) == pytest.approx(error, rel=1e-4)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(rank.state_dict()[key], value, atol=1e-4, rtol=1e-3)


def test_update_refuses_what_it_cannot_follow() -> None:
    quantizer = fitted(ONLINE)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    for bad in (torch.zeros(0, 12), torch.zeros(3, 11), torch.full((3, 12), torch.nan), torch.zeros(2, 3, 12)):
        with pytest.raises(AnyglotError, match="12"):
            quantizer.update(bad)
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    with pytest.raises(AnyglotError, match="not been fitted"):
        build(ONLINE, 12).update(correlated(20))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({**PQ, "groups": 13}, "groups"),
        ({**PQ, "groups": 5, "rotation": "eigenvalue"}, "groups that divide 12, got 5"),
        ({**PQ, "size": 1}, "size"),
        ({**PQ, "beam": 0}, "beam"),
        ({**PQ, "learn_rotation": True}, "alternations"),
        ({**PQ, "allocation": "variance", "size": 12}, "power of 2"),
        ({**PQ, "allocation": "variance", "most": 8}, "at least size"),
        ({**ADDITIVE, "allocation": "variance"}, "one level"),
        ({**FITTED["lopq"], "groups": 5}, "groups"),
        ({**FITTED["lopq"], "cells": 1}, "cells"),
        ({**FITTED["ptq"], "parts": [1, 2, 3]}, "divide the next"),
        ({**FITTED["ptq"], "parts": []}, "parts"),
        ({**ONLINE, "start": 8}, "start"),
        ({**ONLINE, "group_budget": 5}, "group_budget"),
        ({**ONLINE, "window": -1}, "window"),
    ],
)
def test_refuses_impossible_values(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(mapping, 12, "here")
