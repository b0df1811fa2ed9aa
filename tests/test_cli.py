import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from anyglot import cli
from anyglot.errors import AnyglotError

VERBS = [
    "fetch",
    "train",
    "plan",
    "tokenize",
    "generate",
    "chat",
    "serve",
    "extend",
    "eval",
    "inspect",
    "doctor",
    "systems",
]


def call(*words: str) -> int:
    """Exit code of `anyglot WORDS`."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    return stopped.value.code


@pytest.fixture
def recorded(monkeypatch):
    """Stand-ins for the modules that verbs dispatch to: they record their arguments. `raises` makes them fail."""
    seen = SimpleNamespace(calls=[], raises=None)

    def record(*arguments, **named):
        seen.calls.append((arguments, named))
        if seen.raises:
            raise seen.raises

    for name, function in [
        ("anyglot.train.pretrain", "run"),
        ("anyglot.data.tokenize", "run"),
        ("anyglot.inference.command", "generate"),
        ("anyglot.inference.batch", "generate"),
        ("anyglot.inference.chat", "run"),
        ("anyglot.eval.command", "run"),
    ]:
        module = ModuleType(name)
        setattr(module, function, record)
        monkeypatch.setitem(sys.modules, name, module)
        package, _, short = name.rpartition(".")
        __import__(package)
        monkeypatch.setattr(sys.modules[package], short, module, raising=False)
    return seen


def test_help_names_every_verb_and_loads_nothing_heavy():
    code = (
        "import sys; from anyglot.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0
    assert all(f"\n    {verb} " in run.stdout for verb in VERBS)
    assert not set(run.stderr.split()) & {"torch", "numpy", "omegaconf", "yaml", "rich", "importlib.metadata"}


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "anyglot", "--version"], capture_output=True, text=True)
    assert run.stdout.startswith("anyglot 0.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert call(verb, "--help") == 0
    printed = capsys.readouterr().out
    assert f"example:\n  anyglot {verb}" in printed


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_are_accepted_by_the_parser(verb, capsys):
    import shlex

    call(verb, "--help")
    example = capsys.readouterr().out.split("example:\n  anyglot ")[1]
    arguments, rest = cli._parser().parse_known_args(shlex.split(example))
    assert arguments.verb == verb
    assert all("=" in word for word in rest)
    assert arguments.takes_overrides or not rest


def test_train_dispatches_by_stage(recorded, tmp_path):
    (tmp_path / "run.yaml").write_text("stage: pretrain\nsteps: 3\n")
    assert call("train", str(tmp_path / "run.yaml"), "seed=7", "optimizer.lr=0.5") == 0
    mapping = {"stage": "pretrain", "steps": 3, "seed": 7, "optimizer": {"lr": 0.5}}
    assert recorded.calls == [((mapping, str(tmp_path / "run.yaml")), {})]


@pytest.mark.parametrize("stage", ["stage: pretrian", "steps: 3"])
def test_an_unknown_or_missing_stage_is_one_line(stage, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(stage)
    assert call("train", str(tmp_path / "run.yaml")) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "pretrain" in message
    assert "run.yaml" in message


def test_launchers_may_add_the_local_rank(recorded, tmp_path):
    (tmp_path / "run.yaml").write_text("stage: pretrain")
    assert call("--local_rank=1", "train", str(tmp_path / "run.yaml")) == 0
    assert len(recorded.calls) == 1


@pytest.mark.parametrize("verb", ["tokenize", "eval"])
def test_configs_are_composed_and_handed_on(verb, recorded, tmp_path):
    (tmp_path / "run.yaml").write_text("a: 1")
    assert call(verb, str(tmp_path / "run.yaml"), "a=2") == 0
    assert recorded.calls == [(({"a": 2}, str(tmp_path / "run.yaml")), {})]


def test_generate_keeps_the_order_of_its_parts(recorded, tmp_path):
    words = ["--speech", "a.wav", "--text", "x=y", "--part", "motion=b=c.npy", "--image", "d.png", "--text", "end"]
    assert call("generate", str(tmp_path), *words, "--to", "image", "--seed", "3", "temperature=0.5") == 0
    ((checkpoint, parts), named) = recorded.calls[0]
    assert checkpoint == tmp_path
    assert parts == [("speech", "a.wav"), ("text", "x=y"), ("motion", "b=c.npy"), ("image", "d.png"), ("text", "end")]
    assert (named["to"], named["seed"], named["overrides"]) == ("image", 3, ["temperature=0.5"])


def test_generate_takes_a_file_of_prompts(recorded, tmp_path):
    assert call("generate", str(tmp_path), "--prompts", "p.jsonl", "--batch", "3", "--out", "o", "top_k=1") == 0
    ((checkpoint, prompts), named) = recorded.calls[0]
    assert (checkpoint, prompts) == (tmp_path, Path("p.jsonl"))
    assert named == {"to": None, "out": Path("o"), "seed": 0, "batch": 3, "overrides": ["top_k=1"]}


def test_parts_of_one_call_do_not_leak_into_the_next(recorded, tmp_path):
    call("generate", str(tmp_path), "--text", "a")
    call("generate", str(tmp_path), "--text", "b")
    assert [arguments[1] for arguments, _ in recorded.calls] == [[("text", "a")], [("text", "b")]]


@pytest.mark.parametrize(
    "words",
    [
        ["doctor", "a=1"],
        ["train", "c.yaml", "steps"],
        ["train", "c.yaml", "--stpes=3"],
        ["generate", "m", "--part", "motion"],
        ["train", "--threads", "0", "c.yaml"],
        ["fly"],
        [],
    ],
)
def test_bad_usage_exits_2_with_the_reason(words, capsys):
    assert call(*words) == 2
    assert "error:" in capsys.readouterr().err


def test_an_error_is_one_line_without_traceback(recorded, tmp_path, capsys):
    recorded.raises = AnyglotError("the file x is wrong; mend it")
    assert call("chat", str(tmp_path)) == 2
    assert capsys.readouterr().err == "anyglot: error: the file x is wrong; mend it\n"


def test_an_interruption_says_how_to_go_on(recorded, tmp_path, capsys):
    recorded.raises = KeyboardInterrupt()
    assert call("chat", str(tmp_path)) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_missing_optional_package_names_its_extra(recorded, tmp_path, capsys):
    recorded.raises = ModuleNotFoundError("No module named 'faster_whisper'", name="faster_whisper")
    assert call("chat", str(tmp_path)) == 2
    assert "pip install 'anyglot[eval]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(recorded, tmp_path):
    recorded.raises = ModuleNotFoundError("No module named 'anyglot.nothing'", name="anyglot.nothing")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["chat", str(tmp_path)])


def test_threads_reach_torch():
    code = (
        "import sys, types; from anyglot import cli, systems\n"
        "def show(as_json, only):\n    import torch; print(torch.get_num_threads())\n"
        "systems.show = show; cli.main(['systems', '--threads', '1'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr


def test_a_closed_pipe_is_no_error():
    run = subprocess.run(
        f"{sys.executable} -m anyglot systems --json | head -n 1", shell=True, capture_output=True, text=True
    )
    assert run.stdout == "[\n"
    assert run.stderr == ""
