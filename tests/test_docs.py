"""README and docs: links lead somewhere, and every `anyglot` command is one that the command line takes."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from anyglot import cli
from anyglot.config import load_mapping, typed
from tests.test_cli import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCHEMAS = {  # what the verbs make of a config, by its `stage` or `kind`
    "tokenizer": "anyglot.train.tokenizer:TokenizerConfig",
    "text_tokenizer": "anyglot.train.text_tokenizer:TextTokenizerConfig",
    "action_tokenizer": "anyglot.train.action_tokenizer:ActionTokenizerConfig",
    "pretrained": "anyglot.train.pretrained:PretrainedStageConfig",
    "quantizer": "anyglot.train.quantizer:QuantizerStageConfig",
    "node_codes": "anyglot.train.node_codes:NodeCodesConfig",
    "link_prediction": "anyglot.train.link_prediction:LinkPredictionConfig",
    "atom_codes": "anyglot.train.atom_codes:AtomCodesConfig",
    "pretrain": "anyglot.train.pretrain:PretrainConfig",
    "finetune": "anyglot.train.finetune:FinetuneConfig",
    "preference": "anyglot.train.preference:PreferenceConfig",
    "maskgit": "anyglot.train.maskgit:MaskGITStageConfig",
    "tokenizers": "anyglot.eval.tokenizers:TokenizersEval",
    "language_model": "anyglot.eval.language_model:LanguageModelEval",
    "recommendation": "anyglot.eval.recommendation:RecommendationEval",
    "conversation": "anyglot.eval.conversation:ConversationEval",
    "harness": "anyglot.eval.harness:HarnessEval",
    "geneval": "anyglot.eval.benchmarks.geneval:GenEval",
    "coco_captions": "anyglot.eval.benchmarks.coco_captions:CocoCaptions",
    "librispeech": "anyglot.eval.benchmarks.librispeech:LibriSpeech",
    "vbench": "anyglot.eval.benchmarks.vbench:VBench",
    "humanml3d": "anyglot.eval.benchmarks.humanml3d:HumanML3D",
    "cycle": "anyglot.eval.benchmarks.cycle:Cycle",
    "tokenize": "anyglot.data.sources:TokenizeConfig",
}
PLACEHOLDERS = {"CONFIG", "CORPUS"}


def visible(page: Path) -> str:
    """A page's text without HTML comments."""
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", visible(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """The lines of shell blocks, and inline code, that call anyglot."""
    text = visible(page)
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = [line for line in lines if re.search(r"(^|\s)anyglot\s", line) and not line.startswith("#")]
    return found + re.findall(r"`(anyglot \w[^`]*)`", prose)


def words_of(command: str) -> list[str]:
    """The words after `anyglot`, whichever launcher starts it."""
    words = [word for word in shlex.split(command, comments=True) if word != "key=value..."]
    return words[words.index("anyglot") + 1 :]


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    arguments, overrides = cli._parser().parse_known_args(words)
    assert arguments.takes_overrides or not overrides, f"anyglot {arguments.verb} takes no {overrides}"
    assert all("=" in word and not word.startswith("-") for word in overrides), overrides
    return arguments, overrides


CALLS = [
    pytest.param(command, id=f"{page.name}: {command.strip()}")
    for page in PAGES
    for command in dict.fromkeys(commands(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", visible(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_every_page_is_listed():
    index = visible(ROOT / "docs" / "README.md")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]


def test_there_are_commands_to_check():
    assert len(CALLS) > 40


@pytest.mark.parametrize("command", CALLS)
def test_commands_are_taken(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = words_of(command)
    if len(words) == 1 or words[1] == "--help":  # it only names a verb
        assert words[0] in {"VERB", "--help", "--version", *VERBS}
        return
    arguments, overrides = parse(words)
    if arguments.verb == "fetch" and arguments.corpus not in PLACEHOLDERS:
        load_mapping(f"corpora/{arguments.corpus}", overrides)
    if (
        arguments.verb in ("train", "plan", "tokenize", "eval")
        and arguments.config
        and arguments.config not in PLACEHOLDERS
    ):
        mapping = load_mapping(arguments.config, overrides)
        mapping.pop("system", None)
        module, _, name = SCHEMAS[mapping.get("stage") or mapping.get("kind") or "tokenize"].partition(":")
        typed(getattr(import_module(module), name), mapping, arguments.config)
