"""What a run logs, held against hand-computed values."""

from math import log

import numpy as np
import pytest
import torch

from anyglot.lm.loss import TokenLoss
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.train import meter as meters
from anyglot.train.meter import GroupSums, Meter, token_groups
from tests.train.groups import one_process

IMAGE = CodeSpec("image", (4,), (Axis("height", "sized", 2), Axis("width", "sized", 2)))
SPEECH = CodeSpec("speech", (2, 3), (Axis("time", "open", 5),))
VOCABULARY = Vocabulary.build(5, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=2)
START = {block.name: block.start for block in VOCABULARY.blocks}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def group():
    with one_process():
        yield


def test_every_id_has_one_group():
    groups, names = token_groups(VOCABULARY)
    found = {name: np.flatnonzero(groups.numpy() == index).tolist() for index, name in enumerate(names)}
    image, speech = START["image.0"], START["speech.0"]
    assert found["text"] == [0, 1, 2, 3, 4]
    assert found["image"] == [image, image + 1, image + 2, image + 3]
    assert found["speech"] == list(range(speech, speech + 5))
    assert found["structure"] == [
        token for token in range(VOCABULARY.size) if token not in found["text"] + found["image"] + found["speech"]
    ]
    assert VOCABULARY.opener("image") in found["structure"]


def test_bits_are_means_per_group_of_what_counts():
    sums = GroupSums(VOCABULARY, CPU)
    labels = torch.tensor([[1, START["image.0"], START["image.0"] + 3, -100], [VOCABULARY.eos, 2, 3, -100]])
    nll = torch.tensor([1.0, 2.0, 4.0, 99.0, 5.0, 3.0, 77.0, 99.0])
    weights = torch.tensor([[1.0, 0.5, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    sums.add(labels, nll, weights)
    bits = sums.bits()
    assert bits == pytest.approx({"bits/text": 2 / log(2), "bits/image": 3 / log(2), "bits/structure": 5 / log(2)})
    assert sums.bits() == {}  # it starts anew


def test_bits_of_each_level_stand_beside_those_of_a_modality_with_several():
    sums = GroupSums(VOCABULARY, CPU)
    labels = torch.tensor([[START["speech.0"], START["speech.1"] + 2, START["speech.1"], START["image.0"]]])
    sums.add(labels, torch.tensor([1.0, 2.0, 6.0, 3.0]), torch.ones(1, 4))
    wanted = {"bits/speech": 3, "bits/speech.0": 1, "bits/speech.1": 4, "bits/image": 3}
    assert sums.bits() == pytest.approx({name: nats / log(2) for name, nats in wanted.items()})


def test_shares_are_of_the_sum_over_groups():
    sums = GroupSums(VOCABULARY, CPU)
    labels = torch.tensor([[START["speech.0"], START["speech.1"], 3, START["image.0"]]])
    sums.add(labels, torch.tensor([1.0, 2.0, 6.0, 5.0]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    assert sums.shares() == pytest.approx({"text": 6 / 9, "speech": 3 / 9})


def token_loss(nll, log_z=0.0, logit_rms=0.0, gradient_norm=0.0):
    """What the loss gives for four tokens."""
    of_all = (torch.as_tensor(value).expand(4).float() for value in (nll, log_z, gradient_norm, logit_rms))
    return TokenLoss(torch.zeros(()), *of_all)


def test_monitors_of_stability_are_over_targets_alone():
    meter = Meter(VOCABULARY, flops_per_token=1.0, peak=1.0, device=CPU)
    labels = torch.tensor([[1, START["speech.1"], START["image.0"], -100]])
    for log_z, rms in ((-2.0, 1.0), (-1.0, 3.0), (-3.0, None)):  # tokens of weight 0 have 0, not the largest log Z
        meter.begin()
        loss = token_loss(
            1.0,
            torch.tensor([log_z, -3.0, 0, 0]),
            torch.tensor([rms or 0.0] * 2 + [0, 0]),
            torch.tensor([3.0, 1, 0, 0]),
        )
        loss = loss if rms else loss._replace(logit_rms=None)  # not measured in this step
        meter.add(labels, loss, torch.tensor([[1.0, 0.5, 0.0, 0.0]]))
        meter.step(1.0, 1.0, torch.zeros(1, 4))
    values = meter.scalars()
    assert values["log_z_max"] == -1
    assert values["log_z"] == pytest.approx((-2 - 3 - 1 - 3 - 3 - 3) / 6)
    assert values["logit_rms"] == pytest.approx(((1 + 1 + 9 + 9) / 4) ** 0.5)
    assert values["gradient_share/text"] == pytest.approx(0.75)
    assert values["gradient_share/speech"] == pytest.approx(0.25)
    assert "gradient_share/image" not in values


def test_scalars_are_means_since_they_were_last_asked(monkeypatch):
    clock = iter([10.0, 12.0, 100.0, 102.0, 200.0, 201.0])
    monkeypatch.setattr(meters.time, "monotonic", lambda: next(clock))
    meter = Meter(VOCABULARY, flops_per_token=6.0, peak=48.0, device=CPU)
    labels = torch.tensor([[START["speech.0"], START["speech.1"], START["speech.1"] + 2, -100]])
    weights = torch.tensor([[1.0, 1.0, 0.0, 0.0]])  # the third bears no loss, so it was no target
    for loss, norm in ((3.0, 1.0), (1.0, 2.0)):
        meter.begin()
        meter.add(labels, token_loss(log(2)), weights)
        meter.step(loss, norm, torch.tensor([[0, 0, 1, -1]]))
    values = meter.scalars()
    assert (values["loss"], values["gradient_norm"]) == (2.0, 1.5)
    assert values["tokens_per_second"] == 6 / 4  # 3 of 4 places, twice, in 2 + 2 seconds; not the time between steps
    assert values["padding"] == 0.25
    assert values["utilisation"] == 8 / 4 * 6 / 48
    assert values["bits/speech"] == pytest.approx(1.0)
    assert values["codes_seen/speech.0"] == 1 / 2
    assert values["codes_seen/speech.1"] == pytest.approx(1 / 3)
    assert values["codes_seen/image.0"] == 0
    meter.begin()
    meter.add(labels + 0, token_loss(1.0), torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    meter.step(7.0, 5.0, torch.tensor([[0, 0, 0, 0]]))
    values = meter.scalars()
    assert (values["loss"], values["tokens_per_second"], values["padding"]) == (7.0, 4.0, 0.0)
    assert values["codes_seen/speech.1"] == pytest.approx(2 / 3)  # since the start
