"""Online additive quantization: its linear system, its search by blocks, and ranks that stay equal."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build, online_additive
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.local_search import errors
from anyglot.tokenizers.quantizers.online_additive import block_beam_search, block_order
from tests.tokenizers.quantizers.cases.additive import ONLINE
from tests.tokenizers.quantizers.test_additive import data, one_hot, problem


def started(**changes: Any) -> Any:
    quantizer = build({**ONLINE, **changes}, 6)
    quantizer.fit(data(100, 6))
    return quantizer


def test_blocks_hold_every_level_once_a_pass_and_differ_between_updates() -> None:
    orders = [block_order(5, 2, 3, seed) for seed in range(4)]
    for order in orders:
        assert [len(block) for block in order] == [2, 2, 1] * 3
        for start in (0, 3, 6):
            assert sorted(torch.cat(order[start : start + 3]).tolist()) == list(range(5))
    assert len({str(order) for order in orders}) == 4


def test_more_passes_are_never_worse_for_any_vector() -> None:
    x, codebooks, _ = problem(400, 5, 8, 6)
    before = errors(x, codebooks, beam_encode(x, codebooks, 2))
    first = before
    blocks = block_order(5, 2, 4, 0)
    for count in range(1, len(blocks) + 1):
        now = errors(x, codebooks, block_beam_search(x, codebooks, blocks[:count], 2))
        assert (now <= before * (1 + 1e-6)).all()
        before = now
    assert before.mean() < 0.95 * first.mean()


def test_update_solves_the_least_squares_of_all_codes_so_far() -> None:
    quantizer = started()
    batches = [data(100, 6), data(70, 6, seed=1), 2 * data(90, 6, seed=2)]
    codes = [quantizer.encode(batches[0])]
    for batch in batches[1:]:
        codes.append(quantizer.encode(batch))
        before = quantizer.codebooks.clone()
        error = (quantizer.decode(codes[-1]) - batch).square().mean()
        torch.testing.assert_close(torch.tensor(quantizer.update(batch)), error)
    dense, x = one_hot(torch.cat(codes), 8), torch.cat(batches).double()
    torch.testing.assert_close(quantizer.counts.double(), dense.t() @ dense)
    stacked = torch.cat([dense, 0.1 * torch.eye(24, dtype=torch.float64)])  # ridge 0.01 = 0.1 squared
    target = torch.cat([x, 0.1 * before.reshape(24, 6).double()])
    expected = torch.linalg.lstsq(stacked, target).solution.reshape(3, 8, 6).float()
    torch.testing.assert_close(quantizer.codebooks, expected, rtol=1e-3, atol=1e-3)


def test_a_window_follows_a_source_that_moves() -> None:
    moved = data(800, 6, seed=1) + 20
    errors_after = {}
    for window in (0, 200):
        quantizer = started(window=window)
        for batch in moved.split(100):
            last = quantizer.update(batch)
        errors_after[window] = last
    assert errors_after[200] < 0.9 * errors_after[0] < 0.5 * started().update(moved)


def test_stream_in_fit_equals_updates_afterwards() -> None:
    x = data(250, 6)
    at_once, later = build(ONLINE, 6), build(ONLINE, 6)
    at_once.fit(x)
    later.fit(x[:100])
    for batch in x[100:].split(50):
        later.update(batch)
    for one, other in zip(at_once.state_dict().values(), later.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_two_ranks_equal_one_on_the_joined_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for ranks; their sums meet at a barrier. One rank's last batch is smaller."""
    batches = [(data(60, 6, seed=1), data(40, 6, seed=2)), (data(50, 6, seed=3), data(7, 6, seed=4))]
    alone = started()
    for pair in batches:
        alone.update(torch.cat(pair))
    ranks, barrier, given = [started(), started()], threading.Barrier(2, timeout=30), {}

    def summed(tensor: Tensor) -> Tensor:
        given[threading.current_thread().name] = tensor
        barrier.wait()
        total = given["0"] + given["1"]
        barrier.wait()
        return total

    monkeypatch.setattr(online_additive, "all_reduce", summed)

    def follow(rank: int) -> None:
        for pair in batches:
            ranks[rank].update(pair[rank])

    threads = [threading.Thread(target=follow, args=(rank,), name=str(rank)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(ranks[0].codebooks, ranks[1].codebooks)
    for name, value in ranks[0].state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], msg=name)
    assert int(alone.updates) == 2


def test_bad_updates_are_refused() -> None:
    with pytest.raises(AnyglotError, match="not been fitted"):
        build(ONLINE, 6).update(data(10, 6))
    quantizer = started()
    before = quantizer.codebooks.clone()
    for bad in (torch.zeros(3, 5), torch.full((3, 6), torch.nan), torch.zeros(2, 3, 6), torch.zeros(0, 6)):
        with pytest.raises(AnyglotError, match="expected .*vector"):
            quantizer.update(bad)
    assert torch.equal(quantizer.codebooks, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 7}, "here.start: 8 codes need as many"),
        ({"batch": 0}, "here.batch"),
        ({"window": -1}, "here.window"),
        ({"passes": 0}, "here.passes"),
        ({"block": 4}, "here.block: 1 to 3"),
        ({"beam": 0}, "here.beam"),
        ({"ridge": 0.0}, "here.ridge"),
    ],
)
def test_refuses_impossible_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**ONLINE, **changes}, 6, "here")
