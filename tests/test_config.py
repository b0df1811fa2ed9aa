from dataclasses import dataclass, field

import pytest

from anyglot import config
from anyglot.errors import ConfigError


@dataclass
class Optimizer:
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])


@dataclass
class Run:
    steps: int
    name: str = "run"
    optimizer: Optimizer = field(default_factory=Optimizer)
    model: dict[str, int] = field(default_factory=dict)


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


def test_defaults_then_file_then_overrides(tmp_path):
    source = write(tmp_path, "a.yaml", "steps: 5\noptimizer: {lr: 0.1}\n")
    loaded = config.load(Run, source, ["optimizer.lr=0.2", "model.width=3", "optimizer.betas=[0.5,0.6]"])
    assert loaded == Run(5, "run", Optimizer(0.2, [0.5, 0.6]), {"width": 3})
    assert config.typed(Run, config.to_mapping(loaded)) == loaded


def test_extends_merges_in_order_and_below_the_file(tmp_path):
    write(tmp_path, "one.yaml", "steps: 1\nname: one\noptimizer: {lr: 1}\n")
    write(tmp_path, "two.yaml", "extends: one\nname: two\n")
    write(tmp_path, "three.yaml", "optimizer: {betas: [0, 0]}\n")
    source = write(tmp_path, "four.yaml", "extends: [two, three.yaml]\nsteps: 4\n")
    assert config.load_mapping(source) == {"steps": 4, "name": "two", "optimizer": {"lr": 1, "betas": [0, 0]}}


def test_interpolation_sees_overrides(tmp_path):
    source = write(tmp_path, "a.yaml", "steps: 5\nname: run-${steps}\n")
    assert config.load_mapping(source, ["steps=6"])["name"] == "run-6"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("steps: 5\nstpes: 6", [], r"unknown key 'stpes'; did you mean 'steps'\?"),
        ("steps: 5\noptimizer: {ls: 1}", [], r"unknown key 'optimizer.ls'; did you mean 'optimizer.lr'\?"),
        ("steps: 5", ["optimizer.lrr=1"], r"did you mean 'optimizer.lr'\?"),
        ("steps: 5\nzzz: 1", [], "valid: steps, name, optimizer, model"),
        ("name: x", [], "required key 'steps' is not set"),
        ("steps: many", [], "steps"),
        ("steps: [1", [], "not valid YAML"),
        ("- 1", [], "expected `key: value` lines"),
        ("steps: 5", ["steps"], "override 'steps' is not of the form key=value"),
        ("steps: ${nothing}", [], "nothing"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(Run, write(tmp_path, "a.yaml", text), overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_config_names_the_nearest_shipped_one():
    with pytest.raises(ConfigError, match=r"no config 'corpora/dmeo'; did you mean 'corpora/demo'\?"):
        config.find_config("corpora/dmeo")


def test_shipped_configs_are_found_with_and_without_suffix():
    assert config.find_config("corpora/demo") == config.find_config("corpora/demo.yaml")


def test_every_shipped_config_composes():
    found = sorted(config.config_root().rglob("*.yaml"))
    assert found
    for path in found:
        assert config.load_mapping(path)


def test_null_removes_what_an_extended_file_sets(tmp_path):
    write(tmp_path, "one.yaml", "steps: 1\nmodel: {width: 3, depth: 4}\n")
    source = write(tmp_path, "two.yaml", "extends: one\nmodel: {width: null}\n")
    assert config.load_mapping(source) == {"steps": 1, "model": {"depth": 4}}


def test_vars_are_for_interpolation_only_also_across_files(tmp_path):
    write(tmp_path, "one.yaml", "vars: {run: a}\nsteps: 1\nname: ${vars.run}/x\n")
    source = write(tmp_path, "two.yaml", "extends: one\nvars: {run: b}\n")
    assert config.load_mapping(source) == {"steps": 1, "name": "b/x"}
    assert config.load_mapping(source, ["vars.run=c"]) == {"steps": 1, "name": "c/x"}
