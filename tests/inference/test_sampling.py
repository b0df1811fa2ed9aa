"""Drawing an id: the probabilities asked for, equal to putting everything in order, from the seed alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import ConfigError
from anyglot.inference.sampling import SamplingConfig, noise_keys, penalise, sample, waits

CPU = torch.device("cpu")


def shares(logits, rows=20_000, **config):
    """How often each choice is drawn."""
    keys = noise_keys([7] * rows, range(rows), CPU)
    drawn = sample(logits.expand(rows, -1), SamplingConfig(**config), torch.arange(len(logits)), keys)
    return torch.bincount(drawn, minlength=len(logits)) / rows


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log()

    def close(found, expected):
        torch.testing.assert_close(found, torch.tensor(expected), atol=0.015, rtol=0)

    close(shares(logits), [0.5, 0.25, 0.2, 0.05])
    close(shares(logits, top_k=2), [2 / 3, 1 / 3, 0, 0])
    close(shares(logits, top_p=0.74), [2 / 3, 1 / 3, 0, 0])
    close(shares(logits, top_p=0.76), [0.5 / 0.95, 0.25 / 0.95, 0.2 / 0.95, 0])
    close(shares(logits, top_k=3, top_p=0.77), [2 / 3, 1 / 3, 0, 0])  # two of the three make up 0.75 / 0.95
    close(shares(logits, temperature=0.0), [1.0, 0, 0, 0])
    close(shares(logits, temperature=0.5), [0.25 / 0.355, 0.0625 / 0.355, 0.04 / 0.355, 0.0025 / 0.355])


def slow_sample(logits, config, ids, key):
    """The twin: everything in order, one row."""
    logits = logits / config.temperature
    order = logits.argsort(descending=True)
    if config.top_k:
        order = order[: config.top_k]
    shares = logits[order].softmax(0)
    kept, mass = [], 0.0
    for choice, share in zip(order.tolist(), shares.tolist(), strict=True):
        if mass < config.top_p or not kept:
            kept.append(choice)
        mass += share
    noise = waits(key[None], ids[None])[0].log()
    return max(kept, key=lambda choice: float(logits[choice] - noise[choice]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    choices=st.sampled_from([2, 5, 300, 3000]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 30.0]),
)
def test_putting_only_the_likeliest_in_order_changes_nothing(seed, choices, top_k, top_p, temperature):
    config = SamplingConfig(temperature, top_k, top_p)
    logits = 3 * torch.randn(3, choices, generator=torch.Generator().manual_seed(choices))
    ids = torch.arange(choices) + 1000
    keys = noise_keys([seed] * 3, [0, 1, 5], CPU)
    expected = [slow_sample(row, config, ids, key) for row, key in zip(logits, keys, strict=True)]
    assert sample(logits, config, ids, keys).tolist() == expected


def test_noise_is_of_seed_step_and_id_alone():
    keys = noise_keys([1, 2, 1, -1, 2**64 - 1], [0, 0, 1, 3, 3], CPU)
    assert keys[3] == keys[4]  # the same number, modulo 2^64
    assert len(set(keys.tolist())) == 4
    whole, some = torch.arange(50_000), torch.tensor([3, 17, 49_999])
    noise = waits(keys[:3], whole[None])
    assert torch.equal(waits(keys[:3], some.expand(3, 3)), noise[:, some])
    torch.testing.assert_close(noise.mean(1), torch.ones(3), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.var(1), torch.ones(3), atol=0.1, rtol=0)
    assert (torch.corrcoef(noise) - torch.eye(3)).abs().max() < 0.02
    assert torch.corrcoef(torch.stack([noise[0, 1:], noise[0, :-1]]))[0, 1].abs() < 0.02


def test_what_was_written_becomes_less_likely():
    ids = torch.tensor([2, 3, 5, 9])
    logits = torch.tensor([1.0, -1.0, 4.0, 0.5])
    penalise(logits, ids, [3, 5, 5, 4, 100, 0], 2.0)  # 4, 100 and 0 cannot come next
    assert logits.tolist() == [1.0, -2.0, 2.0, 0.5]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"repetition_penalty": 0}]
)
def test_settings_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
