import builtins
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anyglot.tokenizers.quantizers.health import Health
from anyglot.train import health as module
from anyglot.train.health import health_picture, health_scalars, show_health
from anyglot.train.log import TrainingLog


@pytest.fixture
def health() -> Health:
    """Level 0 uses both of its 2 codes evenly; level 1 one of its 4."""
    found = Health((2, 4))
    found.update(torch.tensor([[0, 3], [1, 3]]))
    return found


def test_scalars_of_every_level_by_hand(health):
    assert health_scalars(health) == {
        "quantizer/usage_0": 1.0,
        "quantizer/dead_0": 0.0,
        "quantizer/perplexity_0": 2.0,
        "quantizer/bits_0": 1.0,
        "quantizer/usage_1": 0.25,
        "quantizer/dead_1": 3.0,
        "quantizer/perplexity_1": 1.0,
        "quantizer/bits_1": 0.0,
        "quantizer/usage": 0.625,
        "quantizer/perplexity": 1.5,
    }


def test_picture_is_in_tensorboard_and_on_disk(health, tmp_path):
    pytest.importorskip("matplotlib")
    with TrainingLog(tmp_path, "run") as log:
        show_health(health, log, 7, tmp_path / "health.png")
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("quantizer/code_use")
    picture = np.asarray(Image.open(tmp_path / "health.png"))
    assert [(event.step, event.height, event.width) for event in shown] == [(7, *picture.shape[:2])]
    assert (picture != 255).any(-1).sum() > 1000  # something is drawn
    lopsided = Health((2, 4))
    lopsided.update(torch.tensor([[0, 3]] * 9 + [[1, 2]]))
    assert (health_picture(lopsided) != picture).any()


def test_nothing_is_drawn_before_there_are_codes(tmp_path):
    pytest.importorskip("matplotlib")
    empty = Health((5,))
    empty.update(torch.full((3, 1), -1))
    with TrainingLog(tmp_path, "run") as log:
        show_health(empty, log, 1, tmp_path / "health.png")
    assert not (tmp_path / "health.png").exists()


def test_other_ranks_draw_nothing(health, tmp_path):
    with TrainingLog(tmp_path, "run", enabled=False) as log:
        show_health(health, log, 1, tmp_path / "health.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_is_said_once(health, monkeypatch, caplog):
    whole = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return whole(name, *rest)

    module._can_draw.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        assert health_picture(health) is None
        assert health_picture(health) is None
    module._can_draw.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "no plots of code use: drawing needs pip install 'anyglot[eval]'"
    ]
