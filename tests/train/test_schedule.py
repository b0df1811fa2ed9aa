import pytest

from anyglot.errors import ConfigError
from anyglot.train.schedule import ScheduleConfig, factor, steps_within


def test_warmup_is_linear_and_reaches_the_peak():
    config = ScheduleConfig(warmup=10)
    assert [factor(config, step, 100) for step in range(10)] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factor(config, 10, 100) == pytest.approx(1.0)


def test_cosine_falls_through_the_middle_to_its_final_value():
    config = ScheduleConfig(kind="cosine", warmup=0, final=0.2)
    assert factor(config, 50, 100) == pytest.approx(0.6)
    assert factor(config, 100, 100) == pytest.approx(0.2)
    values = [factor(config, step, 100) for step in range(101)]
    assert values == sorted(values, reverse=True)


def test_wsd_is_flat_then_linear():
    config = ScheduleConfig(kind="wsd", warmup=10, final=0.0, decay=0.2)
    assert {factor(config, step, 100) for step in range(10, 81)} == {1.0}
    assert factor(config, 90, 100) == pytest.approx(0.5)
    assert factor(config, 100, 100) == 0.0


def test_a_run_shorter_than_its_warmup_still_reaches_the_peak():
    assert max(factor(ScheduleConfig(warmup=1000), step, 10) for step in range(10)) == 1.0


def test_budget_counts_what_is_spent():
    assert steps_within(minutes=2, spent=20, step=5, step_seconds=0.5) == 205
    assert steps_within(minutes=1, spent=100, step=5, step_seconds=0.5) == 6


def test_bad_schedules_are_refused():
    with pytest.raises(ConfigError, match="cosine, wsd"):
        ScheduleConfig(kind="linear")
    with pytest.raises(ConfigError, match="decay"):
        ScheduleConfig(decay=0)
