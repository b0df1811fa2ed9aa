"""`anyglot plan`: what it tells about a run that fits, and what to set for one that does not."""

import json
import re
from dataclasses import replace

import pytest

from anyglot import cli
from anyglot.config import config_root, load_mapping, typed
from anyglot.train.footprint import Setting
from anyglot.train.plan import GIB, GPUS, _candidates, make_plan, need
from anyglot.train.pretrain import PretrainConfig

SMALL = ["model.hidden=64", "model.layers=2", "data.length=256", "data.rows=8", "micro_rows=4", "steps=1000"]
SMALL += ["engine.deepspeed.zero_optimization.reduce_bucket_size=100000", "activation_checkpointing=false"]


def config(*overrides):
    return typed(PretrainConfig, load_mapping("seven/lm", [*SMALL, *overrides]), "seven/lm")


def plan(*overrides, gpus=2, memory=80.0, **settings):
    return make_plan("seven/lm", config(*overrides), gpus, "h100", memory, 5000, **settings)


def call(*words):
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", *words])
    return left.value.code


def test_a_run_that_fits_needs_nothing():
    found = plan("engine.zero_stage=1")
    assert found.fits
    assert found.advice == []
    assert found.setting == Setting(1, 4, False)
    assert found.tokens == 1000 * 8 * 256


def test_advice_fits_and_is_what_the_config_lacks():
    whole, least = (
        plan("engine.zero_stage=1"),
        plan("engine.zero_stage=3", "micro_rows=1", "activation_checkpointing=true"),
    )
    between = (need(whole.by_stage[1]) + need(least.by_stage[3])) / 2 / GIB
    found = plan("engine.zero_stage=1", memory=between)
    assert not found.fits
    assert found.gpus_needed == 2
    mended = plan("engine.zero_stage=1", *found.advice, memory=between)
    assert mended.fits
    assert need(mended.by_stage[mended.setting.stage]) <= between * GIB


def test_what_fits_on_no_gpu_is_said():
    found = plan(memory=1.0001)
    assert (found.fits, found.gpus_needed, found.advice) == (False, 0, [])


def test_more_gpus_are_named_when_only_they_help():
    sharded = [plan("engine.zero_stage=3", "micro_rows=1", gpus=gpus, memory=80.0) for gpus in (2, 8)]
    few, many = (need(found.by_stage[3]) for found in sharded)
    assert many < few


def test_time_follows_from_flops_and_utilisation():
    found, faster = plan(), plan(utilisation=0.8)
    assert faster.tokens_per_second == pytest.approx(2 * found.tokens_per_second)
    assert found.step_seconds * found.tokens_per_second == pytest.approx(8 * 256)
    assert found.days * 86400 == pytest.approx(1000 * found.step_seconds)
    assert plan("activation_checkpointing=true").tokens_per_second == pytest.approx(found.tokens_per_second * 3 / 4)
    assert plan(tokens=4 * 1000 * 8 * 256).days == pytest.approx(4 * found.days)
    assert plan("precision=fp32").tokens_per_second < found.tokens_per_second / 10


def test_rows_that_do_not_divide_cost_padding():
    assert plan("data.rows=6", gpus=4).step_seconds == pytest.approx(plan("data.rows=8", gpus=4).step_seconds)


def test_candidates_begin_with_the_setting_itself_and_never_undo_it():
    own = Setting(2, 4, True)
    tried = list(_candidates(own))
    assert tried[0] == own
    assert all(s.stage >= 2 and s.micro_rows <= 4 and s.checkpointing for s in tried)
    assert replace(own, stage=3, micro_rows=1, offload=True) in tried
    assert all(s.stage > 0 for s in _candidates(Setting(0, 1, False)) if s.offload)


def test_the_copy_that_checkpoints_are_written_from_is_told():
    sharded, whole = (plan(f"engine.zero_stage={stage}") for stage in (3, 0))
    assert sharded.saving == pytest.approx(12 * sharded.parameters / 2)
    assert whole.saving == pytest.approx((2 + 12) * whole.parameters)
    assert plan("save_async=false").saving == 0


def test_the_command_prints_a_table(capsys):
    assert call("seven/lm", *SMALL, "--gpus", "2", "--vocabulary", "5000") == 0
    printed = capsys.readouterr().out
    assert "5,000 ids, bfloat16" in printed
    assert "it fits" in printed
    assert "tokens a second" in printed
    assert "from its first checkpoint on, a copy of it stays there: " in printed


def test_the_command_writes_json(capsys):
    assert call("seven/lm", *SMALL, "--gpus", "2", "--vocabulary", "5000", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"] is True
    assert set(told["by_stage"]) == {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seven/lm", "--gpus", "2"], "has no vocabulary yet; give --vocabulary"),
        (["demo/image", "--gpus", "2"], "its stage is 'tokenizer'; only runs of stage pretrain can be planned"),
        (["seven/lm", "--gpus", "2", "--gpu", "k80", "--vocabulary", "9"], "--gpu k80: not one of a10, "),
        (
            ["seven/lm", *SMALL, "--gpus", "2", "--vocabulary", "900", "--utilisation", "40"],
            "it is a share of the peak",
        ),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def sizes():
    """The sample configs, each with the plan that its first lines name."""
    for path in sorted((config_root() / "sizes").glob("*.yaml"), key=lambda path: path.stat().st_size):
        (command,) = re.findall(r"#\s+(anyglot plan .*)", path.read_text())
        arguments, overrides = cli._parser().parse_known_args(command.split()[1:])
        assert not overrides
        yield pytest.param(arguments, id=path.stem)


@pytest.mark.parametrize("arguments", sizes())
def test_sample_configs_fit_where_they_say(arguments):
    schema = typed(PretrainConfig, load_mapping(arguments.config), arguments.config)
    found = make_plan(arguments.config, schema, arguments.gpus, "h100", GPUS["h100"][0], arguments.vocabulary)
    assert found.fits
    model, stem = schema.model, arguments.config.removeprefix("sizes/")
    ends = arguments.vocabulary * model.hidden * (1 if model.tie else 2)
    row = (
        f"| [`{arguments.config}`](../configs/sizes/{stem}.yaml) | {model.layers} x {model.hidden:,} | "
        f"{(found.parameters - ends) / 1e9:.2g} billion | {found.tokens / 1e9:,.0f} billion | {found.gpus} | "
        f"{found.setting.stage} | {'yes' if found.setting.checkpointing else 'no'} | "
        f"{need(found.by_stage[found.setting.stage]) / GIB:.0f} GiB | {found.days:.1f} |"
    )
    assert row in (config_root().parent / "docs" / "scale.md").read_text().splitlines()
