"""The engine: its settings reach DeepSpeed, those that it would ignore or that are ours are refused, traps are shut."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anyglot.errors import ConfigError
from anyglot.train.engine import EXTRA, OURS, EngineConfig, build_engine, loss_scale, process_group
from anyglot.train.optimizers import build_optimizer, set_learning_rates


@pytest.fixture(scope="module")
def group():
    with process_group() as ranks:
        assert ranks == (0, 1)
        yield


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def build(**config):
    return build_engine(net(), EngineConfig(**config), 2, torch.float32)


@pytest.mark.parametrize(
    ("deepspeed", "message"),
    [
        ({"zero_optimisation": {}}, "unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"nonsense": 1}, "unknown key 'nonsense'; valid: zero_optimization, "),
        ({"zero_optimization": {"stage": 2}}, "use engine.zero_stage"),
        ({"zero_optimization": 3}, "zero_optimization is 3, must be a mapping"),
        ({"checkpoint": {"writer": {"decoupled": True}}}, "use save_async"),
        *[
            ({key: {}}, f"engine.deepspeed.{key} has a setting of its own here; use {ours}")
            for key, ours in OURS.items()
        ],
    ],
)
def test_settings_that_would_be_ignored_or_are_ours_are_refused(deepspeed, message):
    with pytest.raises(ConfigError) as caught:
        EngineConfig(deepspeed=deepspeed)
    assert message in str(caught.value)


def test_the_lists_do_not_overlap():
    assert not set(EXTRA) & set(OURS)


@pytest.mark.parametrize("stage", [-1, 4])
def test_an_unknown_stage_is_refused(stage):
    with pytest.raises(ConfigError, match="valid: 0, 1, 2, 3"):
        EngineConfig(zero_stage=stage)


def test_what_deepspeed_refuses_is_one_line(group):
    with pytest.raises(ConfigError, match="engine.deepspeed: DeepSpeed refuses it: ") as caught:
        build(deepspeed={"zero_optimization": {"reduce_buckett_size": 5}})
    assert "reduce_buckett_size" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_settings_are_merged_over_ours(group):
    engine = build(zero_stage=2, deepspeed={"zero_optimization": {"reduce_bucket_size": 1234}, "steps_per_print": 7})
    assert engine.zero_optimization_stage() == 2
    assert engine._config.zero_config.reduce_bucket_size == 1234
    assert engine.steps_per_print() == 7
    assert engine.gradient_clipping() == 1.0


def test_norms_and_biases_are_not_decayed_and_the_rate_is_set(group):
    engine = build(zero_stage=0, weight_decay=0.3)
    groups = engine.optimizer.param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 2), (0.0, 4)]
    set_learning_rates(engine.optimizer, EngineConfig(learning_rate=0.5), 0.25)
    assert {group["lr"] for group in engine.optimizer.param_groups} == {0.125}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_muon_steps_matrices_by_their_gradient_s_nearest_orthogonal_matrix(group, stage):
    """Every direction of the gradient is stepped equally far, but for what Newton-Schulz leaves of its size."""
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    engine = build(optimizer="muon", zero_stage=stage, muon_learning_rate=0.1, learning_rate=0.01, weight_decay=0.0)
    assert [(g["name"], g["lr"], g["use_muon"]) for g in engine.optimizer.param_groups] == [
        ("hidden", 0.1, True),
        ("plain", 0.01, False),
    ]
    engine.backward((engine(data) ** 2).mean(), scale_wrt_gas=False)
    engine.step()
    model = net()
    (model(data) ** 2).mean().backward()
    with deepspeed_whole(engine) as after:
        for name, before in model.named_parameters():
            step = (before.detach() - after[name]) / (0.1 if before.ndim == 2 else 0.01)
            if before.ndim == 1:  # AdamW's first step: the gradient's sign
                torch.testing.assert_close(step, before.grad.sign(), rtol=1e-3, atol=1e-3)
                continue
            u, sizes, v = torch.linalg.svd(before.grad, full_matrices=False)
            turned = u.T @ step @ v.T * (before.shape[1] / max(before.shape)) ** 0.5
            real = sizes > 1e-4 * sizes[0]  # directions that the gradient has
            assert ((turned.diagonal()[real] > 0.6) & (turned.diagonal()[real] < 1.3)).all()
            torch.testing.assert_close(turned[real][:, real], turned.diagonal()[real].diag(), rtol=0, atol=0.02)


@contextmanager
def deepspeed_whole(engine):
    """The engine's parameters by name, whole whatever the stage."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        yield {name: value.detach().clone() for name, value in engine.module.named_parameters()}


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="engine.optimizer is 'adamv'; valid: adamw, muon"):
        EngineConfig(optimizer="adamv")


def test_muon_leaves_embedding_and_head_to_adamw(group):
    from anyglot.lm.model import LanguageModel, ModelConfig, build_model

    for tie in (True, False):
        module = LanguageModel(build_model(ModelConfig(hidden=16, layers=1, heads=2, tie=tie), 40))
        groups = build_optimizer(module, EngineConfig(optimizer="muon")).param_groups
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        ends = {names[id(parameter)] for g in groups if g["name"] == "decayed" for parameter in g["params"]}
        assert ends == {"model.model.embed_tokens.weight", *([] if tie else ["model.lm_head.weight"])}


@pytest.mark.parametrize("clip", [0.01, 0.0])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_micro_batches_are_summed_and_clipped_as_one_batch(group, stage, clip):
    """Two micro-batches, each its share of the whole loss, step as a plain AdamW does on the whole batch."""
    data = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    engine = build(zero_stage=stage, learning_rate=0.01, weight_decay=0.0, gradient_clip=clip)
    for part in data.split(2):
        engine.backward((engine(part) ** 2).sum() * loss_scale(engine) / 4, scale_wrt_gas=False)
    engine.step()
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    ((model(data) ** 2).sum() / 4).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))
    optimizer.step()
    assert float(engine.get_global_grad_norm()) == pytest.approx(float(norm), rel=1e-4)
    moved = engine(data)
    torch.testing.assert_close(moved, model(data), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moved, net()(data), atol=1e-3)


@pytest.mark.parametrize(("stage", "world", "scale"), [(0, 4, 1.0), (2, 4, 1.0), (3, 1, 1.0), (3, 4, 4.0)])
def test_only_zero_3_averages_over_ranks(stage, world, scale):
    engine = SimpleNamespace(world_size=world, zero_optimization_stage=lambda: stage)
    assert loss_scale(engine) == scale


def test_a_run_leaves_no_rank_behind_for_processes_started_after_it(monkeypatch):
    from anyglot.train import engine

    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("deepspeed.comm.destroy_process_group", lambda: None)
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    monkeypatch.setattr("deepspeed.init_distributed", lambda **_: None)
    with engine.process_group():
        assert names <= set(os.environ)
    assert not names & set(os.environ)
