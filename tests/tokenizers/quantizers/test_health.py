import math
from collections import Counter

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from anyglot.tokenizers.quantizers import health as module
from anyglot.tokenizers.quantizers.health import DENSE, Health


def slow_health(codes: list[int], size: int) -> dict[str, float]:
    """One code at a time."""
    counts = Counter(code for code in codes if code >= 0)
    total = sum(counts.values())
    bits = -sum(count / total * math.log2(count / total) for count in counts.values())
    return {"size": size, "usage": len(counts) / size, "dead": size - len(counts), "perplexity": 2**bits, "bits": bits}


def test_by_hand() -> None:
    health = Health((4,))
    health.update(torch.tensor([[0], [0], [1], [3], [-1]]))
    found = health.result()[0]
    assert (found.usage, found.dead, found.bits, found.perplexity) == (0.75, 1, 1.5, 2**1.5)
    assert health.counts(0).tolist() == [2, 1, 1]


@pytest.mark.parametrize("sizes", [(7, 30), (DENSE, DENSE + 1), (2**18, 2**36), (2**62, 5)])
def test_equals_slow_counts_over_many_updates(sizes: tuple[int, ...]) -> None:
    """Small, big and huge codebooks, with codes that recur, and -1 for none; of any grid."""
    generator = torch.Generator().manual_seed(0)
    health, seen = Health(sizes), [[], []]
    for _ in range(5):
        picks = torch.randint(0, 20, (3, 4, 2), generator=generator)
        codes = torch.stack([picks[..., i] * (size // 20 or 1) % size for i, size in enumerate(sizes)], -1)
        codes[torch.rand(3, 4, generator=generator) < 0.2] = -1
        health.update(codes)
        for level in (0, 1):
            seen[level] += codes[..., level].flatten().tolist()
    for level, size in enumerate(sizes):
        assert health.result()[level].to_json() == pytest.approx(slow_health(seen[level], size))
        expected = Counter(code for code in seen[level] if code >= 0)
        assert health.counts(level).tolist() == sorted(expected.values(), reverse=True)


def test_of_no_codes() -> None:
    health = Health((8, 2**40))
    for found in (health.result(), _updated(health, torch.full((5, 2), -1)).result()):
        assert [(level.usage, level.dead, level.bits) for level in found] == [(0, 8, 0), (0, 2**40, 0)]


def _updated(health: Health, codes: Tensor) -> Health:
    health.update(codes)
    return health


def test_a_window_that_covers_the_codebook_has_no_dead_codes() -> None:
    """Counts do not run over: usage is that of the set of codes, however many batches and however often each."""
    health = Health((1000,))
    for part in torch.arange(1000).split(7):
        for _ in range(3):
            health.update(part[:, None])
    assert health.result()[0].to_json() == pytest.approx(
        {"size": 1000, "usage": 1.0, "dead": 0, "perplexity": 1000.0, "bits": math.log2(1000)}
    )


def test_counting_makes_no_tensor_of_the_codebooks_size(largest_tensor) -> None:
    health = Health((DENSE, 2**62))
    health.update(torch.zeros(100, 2, dtype=torch.int64))  # the counts themselves
    assert largest_tensor(lambda: health.update(torch.randint(0, DENSE, (100, 2)))) <= DENSE + 1
    sparse = Health((2**62,))
    assert largest_tensor(lambda: sparse.update(torch.randint(0, 2**62, (100, 1)))) <= 200


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    health = Health((50, 2**40))
    generator = torch.Generator().manual_seed(rank)
    codes = torch.randint(0, 50, (30 + rank, 2), generator=generator)
    health.update(codes)
    alone = health.result()
    joined = health.over_ranks()
    assert health.result() == alone  # asking changes nothing
    every = [torch.zeros(30 + other, 2, dtype=torch.int64) for other in (0, 1)]
    for other in (0, 1):
        every[other] = torch.randint(0, 50, (30 + other, 2), generator=torch.Generator().manual_seed(other))
    assert joined.result() == _updated(Health((50, 2**40)), torch.cat(every)).result()
    assert joined.result() != alone
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one(tmp_path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)


def test_one_rank_is_itself() -> None:
    health = _updated(Health((5,)), torch.tensor([[1], [2]]))
    assert health.over_ranks().result() == health.result()


def test_dense_limit_is_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, 100, (500, 1))
    dense = _updated(Health((100,)), codes)
    monkeypatch.setattr(module, "DENSE", 99)
    sparse = _updated(Health((100,)), codes)
    assert dense.result() == sparse.result()
    assert dense.counts(0).tolist() == sparse.counts(0).tolist()
