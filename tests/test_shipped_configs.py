"""Every shipped config says only what its schema knows, and so do the demo's commands, for any budget and folder."""

from importlib import import_module
from pathlib import Path

import pytest

from anyglot import cli
from anyglot.config import config_root, load_mapping, typed
from anyglot.systems import about
from anyglot.tokenizers.base import tokenizer_class
from anyglot.train.pretrained import MODULES

NAMES = sorted(str(path.relative_to(config_root()).with_suffix("")) for path in config_root().rglob("*.yaml"))
BASES = {"image/base"}  # to be extended: they leave out what only a run can know
BY_FOLDER = {"corpora/demo": ("anyglot.data.corpora.demo", "DemoCorpus")}
BY_FOLDER["corpora/clips"] = ("anyglot.data.corpora.clips", "ClipsCorpus")
BY_FOLDER["corpora/mocap"] = ("anyglot.data.corpora.mocap", "MocapCorpus")
BY_FOLDER["corpora/moves"] = ("anyglot.data.corpora.moves", "MovesCorpus")
BY_FOLDER["corpora/signs"] = ("anyglot.data.corpora.signs", "SignsCorpus")
BY_FOLDER["corpora/vectors"] = ("anyglot.data.corpora.vectors", "VectorsCorpus")
BY_FOLDER["corpora/graphs"] = ("anyglot.data.corpora.graphs", "GraphsCorpus")
BY_FOLDER["corpora/molecules"] = ("anyglot.data.corpora.molecules", "MoleculesCorpus")
BY_FOLDER["corpora/actions"] = ("anyglot.data.corpora.actions", "ActionsCorpus")
BY_FOLDER["corpora/movielens"] = ("anyglot.data.corpora.movielens", "MovieLensCorpus")
BY_FOLDER["corpora/smollm2"] = ("anyglot.data.corpora.smollm2", "SmolLM2Weights")
BY_FOLDER["corpora/conversations"] = ("anyglot.data.corpora.conversations", "ConversationsCorpus")
BY_FOLDER["corpora/recorded"] = ("anyglot.data.corpora.recorded", "RecordedCorpus")
SCHEMAS = {  # by `stage` or `kind`; a config with neither is one of `anyglot tokenize`
    "tokenizer": ("anyglot.train.tokenizer", "TokenizerConfig"),
    "text_tokenizer": ("anyglot.train.text_tokenizer", "TextTokenizerConfig"),
    "action_tokenizer": ("anyglot.train.action_tokenizer", "ActionTokenizerConfig"),
    "pretrained": ("anyglot.train.pretrained", "PretrainedStageConfig"),
    "quantizer": ("anyglot.train.quantizer", "QuantizerStageConfig"),
    "node_codes": ("anyglot.train.node_codes", "NodeCodesConfig"),
    "link_prediction": ("anyglot.train.link_prediction", "LinkPredictionConfig"),
    "atom_codes": ("anyglot.train.atom_codes", "AtomCodesConfig"),
    "pretrain": ("anyglot.train.pretrain", "PretrainConfig"),
    "finetune": ("anyglot.train.finetune", "FinetuneConfig"),
    "preference": ("anyglot.train.preference", "PreferenceConfig"),
    "maskgit": ("anyglot.train.maskgit", "MaskGITStageConfig"),
    "tokenizers": ("anyglot.eval.tokenizers", "TokenizersEval"),
    "language_model": ("anyglot.eval.language_model", "LanguageModelEval"),
    "recommendation": ("anyglot.eval.recommendation", "RecommendationEval"),
    "conversation": ("anyglot.eval.conversation", "ConversationEval"),
    "harness": ("anyglot.eval.harness", "HarnessEval"),
    "geneval": ("anyglot.eval.benchmarks.geneval", "GenEval"),
    "coco_captions": ("anyglot.eval.benchmarks.coco_captions", "CocoCaptions"),
    "librispeech": ("anyglot.eval.benchmarks.librispeech", "LibriSpeech"),
    "vbench": ("anyglot.eval.benchmarks.vbench", "VBench"),
    "humanml3d": ("anyglot.eval.benchmarks.humanml3d", "HumanML3D"),
    "cycle": ("anyglot.eval.benchmarks.cycle", "Cycle"),
    "tokenize": ("anyglot.data.sources", "TokenizeConfig"),
}


def checked(name, overrides=()):
    """A config as its dataclass, and what lies in it untyped, typed by whoever reads it."""
    mapping = load_mapping(name, overrides)
    if name.startswith("systems/"):
        about(mapping, name)
        mapping.pop("system")
    if name in BY_FOLDER:
        module, schema = BY_FOLDER[name]
        mapping.pop("corpus", None)
    else:
        module, schema = SCHEMAS[mapping.get("stage") or mapping.get("kind") or "tokenize"]
    config = typed(getattr(import_module(module), schema), mapping, name)
    if schema == "PretrainedStageConfig":
        typed(tokenizer_class(MODULES[config.modality]).config_class, config.tokenizer, name)
    if schema == "ActionTokenizerConfig":
        typed(tokenizer_class("action").config_class, config.model, name)
    if schema == "TokenizerConfig":
        objective = import_module(f"anyglot.tokenizers.objectives.{config.modality}")
        typed(tokenizer_class(config.modality).config_class, config.model, name)
        typed(objective.CONFIG, config.objective, name)
    return config


def test_there_are_configs_to_check():
    assert len(NAMES) > 12


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BASES])
def test_every_shipped_config_fits_its_schema(name):
    missing = (
        ["data.files=[a.jsonl]", "out=run"]
        if name.split("/")[0] in ("image", "speech", "video", "motion", "graph", "action")
        else []
    )
    missing = ["source=a/directory"] if name.startswith("pretrained/") else missing
    checked(name, missing)


@pytest.fixture
def steps_of(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return import_module("demo").steps_of


@pytest.mark.parametrize("minutes", [0.5, 2, 25, 100])
@pytest.mark.parametrize("out", ["runs/demo", "elsewhere/demo"])
def test_the_demo_s_commands_parse_and_stay_in_its_folder(steps_of, minutes, out):
    steps = steps_of(minutes, Path(out))
    assert len({step.name for step in steps}) == len(steps)
    budgets = 0.0
    for step in steps:
        arguments, overrides = cli._parser().parse_known_args(step.words)
        assert step.command.startswith("anyglot ")
        for path in (step.done, step.run):
            assert path is None or path.is_relative_to(out)
        if arguments.verb == "fetch":
            assert arguments.out == step.done.parent == step.run
            checked(f"corpora/{arguments.corpus}", overrides)
            continue
        config = checked(arguments.config, overrides)
        budgets += getattr(config, "minutes", 0)
        assert Path(config.out) in (step.run, step.done.parent)
        for path in paths(load_mapping(arguments.config, overrides)):
            assert path.startswith(f"{out}/"), f"{arguments.config}: {path}"
    assert 0.6 * minutes < budgets < 0.8 * minutes


def paths(value):
    """All strings with a slash in a config."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in paths(item)]
    if isinstance(value, list):
        return [found for item in value for found in paths(item)]
    return [value] if isinstance(value, str) and "/" in value else []
