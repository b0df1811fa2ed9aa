"""The `anyglot` command. Each verb imports what it needs when it runs, so that `--help` costs nothing."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from anyglot import __version__
from anyglot.errors import AnyglotError, ConfigError

# Modules of anyglot.train that `stage:` may name.
STAGES = (
    "tokenizer",
    "text_tokenizer",
    "action_tokenizer",
    "quantizer",
    "link_prediction",
    "atom_codes",
    "node_codes",
    "pretrained",
    "pretrain",
    "finetune",
    "preference",
    "maskgit",
)
GO_ON = "interrupted; what was finished is kept, run the same command again to go on"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one verb. Exit code: 0 done, 2 an error the user can mend (one line on stderr), 130 interrupted."""
    parser = _parser()
    arguments, overrides = parser.parse_known_args(argv)
    stray = [word for word in overrides if not arguments.takes_overrides or word.startswith("-") or "=" not in word]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)} (see anyglot {arguments.verb} --help)")
    if arguments.threads:
        # torch and BLAS read it when they are imported, which is later; worker processes inherit it
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(arguments.threads)
    try:
        arguments.run(arguments, overrides)
    except AnyglotError as error:
        print(f"anyglot: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        from anyglot.doctor import extra_of

        if not (extra := extra_of(error.name)):
            raise
        print(f"anyglot: error: {error.name} is not installed; pip install 'anyglot[{extra}]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nanyglot: {GO_ON}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `anyglot systems | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anyglot", description="Train language models that read and write every medium.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"anyglot {__version__}")
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)  # launchers add it; LOCAL_RANK counts
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Any, summary: str, example: str, overrides: str = "") -> argparse.ArgumentParser:
        usage = f"anyglot {name} {overrides} [--threads N]" if overrides else None
        words = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            usage=usage,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        words.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of each process")
        words.set_defaults(run=run, takes_overrides=bool(overrides))
        return words

    fetch = verb(
        "fetch",
        _fetch,
        "build a corpus out of reference assets",
        "anyglot fetch demo --out runs/demo/data spoken=200",
        "CORPUS --out DIR [key=value ...]",
    )
    fetch.add_argument("corpus", metavar="CORPUS", help="a config below configs/corpora, e.g. demo")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to build it in")

    train = verb(
        "train",
        _train,
        "train what a config describes: a tokenizer, a quantizer or the language model",
        "anyglot train configs/demo/image.yaml steps=500 seed=1",
        "CONFIG [key=value ...]",
    )
    train.add_argument("config", metavar="CONFIG", help=f"a YAML file; its `stage:` is one of {', '.join(STAGES)}")

    plan = verb(
        "plan",
        _plan,
        "say whether a run fits into GPUs, how long it takes, and what to set",
        "anyglot plan sizes/1b --gpus 8 --gpu h100",
        "CONFIG --gpus N [--gpu NAME] [--memory GIB] [--vocabulary N] [--tokens N] [--utilisation X] [--json] "
        "[key=value ...]",
    )
    plan.add_argument("config", metavar="CONFIG", help="a YAML file with `stage: pretrain`")
    plan.add_argument("--gpus", type=_positive, required=True, metavar="N", help="in all, over all machines")
    plan.add_argument("--gpu", default="h100", metavar="NAME", help="h100 (if not given), a100, h200, b200, l40s, ...")
    plan.add_argument("--memory", type=float, default=0, metavar="GIB", help="of each GPU, where not as its name says")
    plan.add_argument("--vocabulary", type=_positive, default=0, metavar="N", help="ids, where no tokens are there yet")
    plan.add_argument("--tokens", type=float, default=0, metavar="N", help="to train on; else what its steps come to")
    plan.add_argument("--utilisation", type=float, default=0.4, metavar="X", help="share of the GPU's peak (0.4)")
    plan.add_argument("--json", action="store_true", help="as JSON")

    tokenize = verb(
        "tokenize",
        _tokenize,
        "turn documents into token shards",
        "anyglot tokenize configs/demo/tokenize.yaml out=runs/demo/tokens",
        "CONFIG [key=value ...]",
    )
    tokenize.add_argument("config", metavar="CONFIG", help="a YAML file")

    generate = verb(
        "generate",
        _generate,
        "continue a prompt of text and media, and write what comes out as files",
        'anyglot generate runs/demo/lm --text "black cat" --to image --out out temperature=0.8',
        "CHECKPOINT [--text T | --image FILE | --speech FILE | --part MODALITY=VALUE] ... | --prompts FILE "
        "[--to MODALITY] [--out DIR] [--seed N] [--batch N] [key=value ...]",
    )
    generate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained model's directory")
    parts = generate.add_argument_group("the prompt: parts in the order given")
    for modality, value, what in (
        ("text", "T", "words"),
        ("image", "FILE", "a picture"),
        ("speech", "FILE", "a sound"),
    ):
        parts.add_argument(f"--{modality}", action=_Part, metavar=value, help=what)
    parts.add_argument("--part", action=_Part, metavar="MODALITY=VALUE", help="a part of any modality: file, or words")
    generate.add_argument("--prompts", type=Path, metavar="FILE", help="instead: documents, each of them a prompt")
    generate.add_argument("--batch", type=_positive, default=8, metavar="N", help="so many of them at once (8)")
    generate.add_argument("--to", metavar="MODALITY", help="what to answer with; without it the model chooses")
    generate.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the files (out)")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (0)")
    generate.set_defaults(parts=[])

    chat = verb(
        "chat",
        _chat,
        "talk with a trained model in the terminal, files as attachments",
        "anyglot chat runs/demo/lm --out out",
        "CHECKPOINT [--out DIR] [--seed N] [key=value ...]",
    )
    chat.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained model's directory")
    chat.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for media it answers (out)")
    chat.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (0)")

    serve = verb(
        "serve",
        _serve,
        "answer by HTTP as OpenAI's routes do, with a web page to talk to",
        "anyglot serve runs/demo/lm port=8000 slots=8",
        "CHECKPOINT [key=value ...]",
    )
    serve.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained model's directory")

    extend = verb(
        "extend",
        _extend,
        "teach a trained model a modality of your own: one file says how it becomes codes",
        "anyglot extend runs/demo/lm --modality examples/tune.py --data runs/tune/data --out runs/tune",
        "CHECKPOINT --modality FILE --data DIR [--out DIR] [key=value ...]",
    )
    extend.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained model's directory")
    extend.add_argument("--modality", type=Path, required=True, metavar="FILE", help="Python file named like it")
    extend.add_argument("--data", type=Path, required=True, metavar="DIR", help="documents, *.jsonl")
    extend.add_argument("--out", type=Path, default=Path("runs/extend"), metavar="DIR", help="folder (runs/extend)")

    evaluate = verb(
        "eval",
        _eval,
        "measure tokenizers and models as a config says",
        "anyglot eval demo/eval_lm names=8",
        "[CONFIG | --compare BEFORE AFTER | --report DIR] [key=value ...]",
    )
    evaluate.add_argument("config", nargs="?", default="", metavar="CONFIG", help="a YAML file")
    evaluate.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="what changed between two evaluations, item by item: their `out` folders",
    )
    evaluate.add_argument(
        "--report", type=Path, metavar="DIR", help="write the page of a finished evaluation again: its `out` folder"
    )

    inspect = verb(
        "inspect",
        _inspect,
        "show a tokenizer, vocabulary, token shard, checkpoint or document file",
        "anyglot inspect runs/demo/tokens/paired --document 3",
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="a file or directory")
    inspect.add_argument("--document", type=int, metavar="N", help="show document N; of shards, token by token")
    inspect.add_argument("--text", type=Path, metavar="DIR", help="text tokenizer: show words instead of text ids")

    doctor = verb("doctor", _doctor, "say what this machine has", "anyglot doctor --json")
    doctor.add_argument("--json", action="store_true", help="as JSON")

    systems = verb("systems", _systems, "list the survey's systems and their state here", "anyglot systems --json")
    systems.add_argument("id", nargs="?", default="", metavar="ID", help="one system, with what its recipe claims")
    systems.add_argument("--json", action="store_true", help="as JSON")
    return parser


class _Part(argparse.Action):
    """Collect (modality, value) pairs of the prompt in the order they are given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        modality, value = self.dest, str(values)
        if self.dest == "part":
            modality, equals, value = value.partition("=")
            if not equals or not modality:
                parser.error(f"--part takes MODALITY=VALUE, got {values!r}")
        namespace.parts = [*namespace.parts, (modality, value)]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _fetch(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.data.corpora import fetch

    fetch(arguments.corpus, arguments.out, overrides)


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from importlib import import_module

    from anyglot.config import load_mapping

    mapping = load_mapping(arguments.config, overrides)
    mapping.pop("system", None)  # what a recipe says of itself, see anyglot.systems
    stage = mapping.get("stage")
    if stage not in STAGES:
        raise ConfigError(f"{arguments.config}: key 'stage' is {stage!r}, must be one of: {', '.join(STAGES)}")
    import_module(f"anyglot.train.{stage}").run(mapping, arguments.config)


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.train import plan

    plan.show(
        arguments.config,
        overrides,
        gpus=arguments.gpus,
        gpu=arguments.gpu,
        memory=arguments.memory,
        vocabulary=arguments.vocabulary,
        tokens=arguments.tokens,
        utilisation=arguments.utilisation,
        as_json=arguments.json,
    )


def _tokenize(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.config import load_mapping
    from anyglot.data import tokenize

    tokenize.run(load_mapping(arguments.config, overrides), arguments.config)


def _generate(arguments: argparse.Namespace, overrides: list[str]) -> None:
    if arguments.prompts and arguments.parts:
        raise ConfigError("a prompt is made of parts or read from --prompts, not both; leave one out")
    if arguments.prompts:
        from anyglot.inference import batch

        batch.generate(
            arguments.checkpoint,
            arguments.prompts,
            to=arguments.to,
            out=arguments.out,
            seed=arguments.seed,
            batch=arguments.batch,
            overrides=overrides,
        )
        return
    from anyglot.inference import command

    command.generate(
        arguments.checkpoint,
        arguments.parts,
        to=arguments.to,
        out=arguments.out,
        seed=arguments.seed,
        overrides=overrides,
    )


def _chat(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.inference import chat

    chat.run(arguments.checkpoint, out=arguments.out, seed=arguments.seed, overrides=overrides)


def _serve(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.inference.server import command

    command.run(arguments.checkpoint, overrides)


def _extend(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.train.extend import run

    run(arguments.checkpoint, arguments.modality, arguments.data, arguments.out, overrides)


def _eval(arguments: argparse.Namespace, overrides: list[str]) -> None:
    if [bool(arguments.config), bool(arguments.compare), bool(arguments.report)].count(True) != 1:
        raise ConfigError("give a config, or --compare with two folders, or --report with one")
    if arguments.compare:
        from anyglot.eval import comparison

        comparison.show(*arguments.compare)
        return
    if arguments.report:
        from anyglot.eval import folder_report

        print(folder_report.write(arguments.report))
        return
    from anyglot.config import load_mapping
    from anyglot.eval import command

    command.run(load_mapping(arguments.config, overrides), arguments.config)


def _inspect(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.inspection import show

    show(arguments.path, arguments.document, arguments.text)


def _doctor(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.doctor import show

    show(arguments.json)


def _systems(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from anyglot.systems import show

    show(arguments.json, arguments.id)
