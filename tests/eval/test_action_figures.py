"""Figures of action tokenizers, and when a written action is the one that was asked for."""

import numpy as np
import pytest
import torch

from anyglot.data.documents import Document, Message, Part
from anyglot.eval.action import Check, evaluate
from anyglot.eval.answers import Answer
from anyglot.inference.anyglot import Reply
from anyglot.tokenizers.action import ActionConfig, ActionTokenizer
from anyglot.tokenizers.action_prise import PriseConfig, PriseTokenizer


def waves(*speeds):
    time = np.arange(60)[:, None]
    return [np.sin(speed * time * 0.1 + np.arange(4)).astype(np.float32) for speed in speeds]


def fitted(scale):
    tokenizer = ActionTokenizer(ActionConfig(features=4, chunk=20, scale=scale, size=2048))
    tokenizer.begin(waves(1, 2, 3))
    return tokenizer


def test_figures_are_what_their_names_say():
    media = waves(1, 3)
    tokenizer = fitted(10.0)
    found = evaluate(tokenizer, media)
    codes = tokenizer.encode(media)
    count = sum(map(len, codes))
    assert found["numbers_per_code"] == 480 / count
    assert found["bits_per_number"] == pytest.approx(11 * count / 480)
    assert found["codes_per_second"] == pytest.approx(30 * count / 120)  # 120 steps at 30 a second
    assert found["bits_per_second"] == pytest.approx(11 * 30 * count / 120)
    off = [(a - b) / tokenizer.half_range for a, b in zip(tokenizer.decode(codes), media, strict=True)]
    assert found["rmse_heldout"] == pytest.approx(np.sqrt(np.mean(np.square(off))))
    assert found["worst_heldout"] == pytest.approx(np.abs(off).max())
    steps = 2 / 2 ** found["rounding_bits_per_number"]  # an error spread evenly over a step has this rmse
    assert steps / np.sqrt(12) == pytest.approx(found["rmse_heldout"])
    finer = evaluate(fitted(40.0), media)
    assert finer["rmse_heldout"] < 0.5 * found["rmse_heldout"]
    assert finer["bits_per_number"] > found["bits_per_number"]


def test_prise_is_measured_on_its_actions_given_what_is_observed():
    torch.manual_seed(0)
    quantizer = {"type": "vq", "size": 4, "kmeans_init": False}
    tokenizer = PriseTokenizer(PriseConfig(3, 1, hidden=[8], dim=4, quantizer=quantizer, size=12)).eval()
    media = waves(1, 2)
    tokenizer.begin(media)
    found = evaluate(tokenizer, media)
    decoded = tokenizer.decode(tokenizer.encode(media), [steps[:, :3] for steps in media])
    off = np.concatenate([(a - b)[:, 3] for a, b in zip(decoded, media, strict=True)]) / float(tokenizer.std[3])
    assert found["rmse_heldout"] == pytest.approx(np.sqrt(np.mean(off**2)))
    assert "rounding_bits_per_number" not in found
    assert found["codes_per_second"] == pytest.approx(30 * sum(map(len, tokenizer.encode(media))) / 120)


def test_an_action_is_right_if_the_nearest_one_known_is_called_so():
    slow, fast = waves(1, 5)
    tokenizer = fitted(10.0)

    def document(name, action):
        return Document(name, [Message(None, [Part("text", text=name), Part("action", data=action)])])

    check = Check(tokenizer, [document("slow, left", slow), document("fast", fast)])
    replies = [[Part("action", data=slow + 0.05)], [Part("action", data=slow)], []]
    answers = [
        Answer(document(name, slow), Reply([], [], parts))
        for name, parts in zip(("slow", "fast", "slow"), replies, strict=True)
    ]
    assert check.judge(answers)["nearest_is_right"].value == pytest.approx(1 / 3)
    assert [answer.right for answer in answers] == [True, False, False]
    assert answers[1].note == "nearest: slow"
