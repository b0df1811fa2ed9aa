import random

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError
from anyglot.train.state import load_state, rng_state, save_state, seed_everything, set_rng_state


def test_state_round_trips_without_running_code(tmp_path):
    state = {"step": 3, "weights": {"w": torch.randn(2, 3)}, "losses": [1.0, 2.0], "rng": rng_state()}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert loaded is not None
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["w"], state["weights"]["w"])


def test_generators_go_on_where_they_were(tmp_path):
    seed_everything(5)
    save_state(tmp_path / "state.pt", rng_state())
    expected = (random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist())  # noqa: NPY002
    set_rng_state(load_state(tmp_path / "state.pt"))
    assert (random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()) == expected  # noqa: NPY002


def test_absent_and_damaged_checkpoints(tmp_path):
    assert load_state(tmp_path / "none.pt") is None
    save_state(tmp_path / "state.pt", {"weights": torch.randn(100)})
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnyglotError, match=r"state\.pt: damaged checkpoint"):
        load_state(tmp_path / "state.pt")


def test_nothing_is_left_of_a_failed_write(tmp_path):
    save_state(tmp_path / "state.pt", {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_state(tmp_path / "state.pt", {"bad": lambda: None})
    assert load_state(tmp_path / "state.pt") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
