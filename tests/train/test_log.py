import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anyglot.train.log import TrainingLog, read_log


def test_lines_curves_and_samples(tmp_path):
    with TrainingLog(tmp_path, "image tokenizer") as log:
        log.note(0, 10, "attention", "sdpa")
        log.scalars(1, 10, {"loss": 2.0})
        log.scalars(2, 10, {"loss": float("nan"), "usage": 0.5})
        log.pictures(2, "reconstructions", np.zeros((1, 8, 8, 3), np.uint8))
        log.sound(2, "decoded", np.zeros(160, np.float32), 16000)
        log.advance(2, 10)
    first, *lines = read_log(tmp_path)
    assert first == {"step": 0, "steps": 10, "time": first["time"], "attention": "sdpa"}
    assert [(line["step"], line["steps"], line["loss"]) for line in lines] == [(1, 10, 2.0), (2, 10, None)]
    assert all(line["time"] >= 0 for line in lines)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "usage"}
    assert events.Tags()["images"]
    assert events.Tags()["audio"] == ["decoded"]


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    with TrainingLog(tmp_path, "run") as log:
        for step in range(1, 5):
            log.scalars(step, 4, {"loss": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # cut off by a crash
    with TrainingLog(tmp_path, "run", step=2) as log:
        log.scalars(3, 4, {"loss": 30})
    assert [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 30]


def test_other_ranks_write_nothing(tmp_path):
    with TrainingLog(tmp_path / "run", "run", enabled=False) as log:
        log.scalars(1, 1, {"loss": 1.0})
        log.advance(1, 1)
    assert not (tmp_path / "run").exists()
