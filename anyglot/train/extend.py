"""`anyglot extend`: a trained model learns a modality that one file of the user's describes.

`out` gets `tokenizer/`, `tokens/`, `start/` (the checkpoint with more rows), `rows/` and `layers/` (the two runs),
`model/` (the result) and `report.json`. What is finished is kept: the same command goes on with an interrupted one.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from anyglot.config import to_mapping, typed
from anyglot.data import tokenize
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.lm.depth import STREAM as DEPTH
from anyglot.lm.depth import has_depth
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.rows import add_rows
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import load_tokenizer, objective_module, tokenizer_class
from anyglot.tokenizers.registered import register
from anyglot.train.device import local_device
from anyglot.train.engine import process_group
from anyglot.train.extension_report import STAGES, logits_apart, show
from anyglot.train.finished import is_finished
from anyglot.train.media import MediaCorpus, find_parts
from anyglot.train.pretrain import PretrainConfig, evaluate, pretrain
from anyglot.train.ranks import Ranks
from anyglot.train.tokenizer import TokenizerConfig
from anyglot.train.tokenizer import train as train_tokenizer

CACHE = 2**30  # bytes of media held while a tokenizer is fitted


@dataclass
class ExtendConfig:
    """How the modality is learnt. The command line fills in the first four.

    checkpoint: of the trained model. modality: the user's file. data: folder with documents (*.jsonl) of the splits
    "train" and "heldout". out: folder for all that comes of it.
    take: directory of a tokenizer that is there already. training: how else one is made: fields of `TokenizerConfig`
    where the file has an OBJECTIVE, merged over its TRAINING; `model` alone where there is nothing to train.
    stream, factors: how codes are written. orders: what to make of a document, as for `anyglot tokenize`. workers: its.
    replay: name -> token store of what the model knows already. replay_share: of the tokens that are trained on.
    heldout: name -> token store of what it should not forget; it is measured on it before and after.
    init: how new rows begin (`NewRowsConfig`). rows_steps, rows_learning_rate: of new rows alone.
    layers: patterns of parameter names that are trained after that, together with new rows; layers_steps, and
    layers_learning_rate, which is that of `layers`. pretrain: further fields of `PretrainConfig` for both runs.
    """

    checkpoint: str
    modality: str
    data: str
    out: str
    take: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    stream: str = "frame"
    factors: int = 1
    orders: list[list[str]] = field(default_factory=list)
    workers: int = 1
    replay: dict[str, str] = field(default_factory=dict)
    replay_share: float = 0.5
    heldout: dict[str, str] = field(default_factory=dict)
    init: str = "codebook"
    rows_steps: int = 300
    rows_learning_rate: float = 2e-3
    layers: list[str] = field(default_factory=lambda: ["*.layers.*"])
    layers_steps: int = 300
    layers_learning_rate: float = 3e-4
    pretrain: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_steps < 1 or self.layers_steps < 0 or not 0 < self.replay_share < 1:
            raise ConfigError("rows_steps must be 1 or more, layers_steps 0 or more, replay_share between 0 and 1")
        if "heldout" in {*self.heldout, *self.replay}:
            raise ConfigError("heldout and replay: the name 'heldout' is that of the new modality's own documents")


def run(checkpoint: Path, modality: Path, data: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    """Extend a checkpoint, in one process or many. Raises AnyglotError, and loses nothing that was finished."""
    given = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(given, dict)
    directory = checkpoint / "model" if (checkpoint / "model").is_dir() else checkpoint
    places = {"checkpoint": str(directory), "modality": str(modality), "data": str(data), "out": str(out)}
    for key in places:
        if key in given:
            raise ConfigError(f"{key}= is not a setting here; it has a place of its own on the command line")
    config = typed(ExtendConfig, {**{str(key): value for key, value in given.items()}, **places})
    name = register(modality)
    if is_finished(out, config, "model"):
        return
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of loading and writing small files
    if int(os.environ.get("RANK", "0")) == 0:
        prepare(config, name)
    with process_group() as (rank, world):
        extend(config, name, rank, world)


def extend(config: ExtendConfig, name: str, rank: int, world: int) -> None:
    """Train what `prepare` made ready, measure and report. A run that is finished is not repeated."""
    out, checkpoint = Path(config.out), Path(config.checkpoint)
    old, vocabulary = Vocabulary.load(checkpoint), Vocabulary.load(out)
    runs = [_run(config, name, vocabulary, "rows", out / "start", config.rows_steps)]
    if config.layers_steps and config.layers:
        runs.append(_run(config, name, vocabulary, "layers", out / "rows" / "model", config.layers_steps))
    for each in runs:
        if not (Path(each.out) / "done.json").exists():
            pretrain(each, rank, world)

    models = [out / "start", *(Path(each.out) / "model" for each in runs)]
    bits = {"checkpoint": measure(checkpoint, old, config.heldout, runs[0], rank, world)}
    for stage, directory in zip(STAGES[1:], models, strict=False):
        bits[stage] = measure(directory, vocabulary, runs[0].heldout, runs[0], rank, world)
    if rank == 0:
        apart = {stage: logits_apart(checkpoint, model, old) for stage, model in zip(STAGES[1:3], models, strict=False)}
        with atomic_directory(out / "model") as folder:
            shutil.copytree(models[-1], folder, dirs_exist_ok=True)
            _copy_rest(checkpoint, folder)
        report = {"ids": {"old": old.size, "new": vocabulary.size}, "logits_apart": apart, "bits": bits}
        write_json(out / "report.json", report)
        show(report, out)
        write_json(out / "done.json", {"config": to_mapping(config)})


def prepare(config: ExtendConfig, name: str) -> None:
    """Make `tokenizer/`, `vocabulary.json`, `tokens/` and `start/`, whose logits over old ids are the checkpoint's."""
    out, checkpoint = Path(config.out), Path(config.checkpoint)
    old = Vocabulary.load(checkpoint)
    if name in old.modality_names:
        raise ConfigError(f"{checkpoint} knows {name!r} already; train it further with `anyglot train`")
    if has_depth(old) or config.stream == DEPTH:
        raise ConfigError("modalities are not added with `depth` streams yet; choose frame, level or delay")
    if not _is_prepared(config, out):
        vocabulary, tokenizer = tokenized(config, name, old)
        add_modality(checkpoint, out / "start", vocabulary, tokenizer, config.init)
        write_json(out / "config.json", to_mapping(config))
    if apart := logits_apart(checkpoint, out / "start", old):
        raise AnyglotError(f"{out}/start: logits over old ids are {apart:g} off {checkpoint}'s; nothing was trained")


def tokenized(config: ExtendConfig, name: str, old: Vocabulary) -> tuple[Vocabulary, Path]:
    """Make the tokenizer, the extended vocabulary and the tokens; return vocabulary and tokenizer directory."""
    out, checkpoint, data = Path(config.out), Path(config.checkpoint), Path(config.data)
    files = [str(path) for path in sorted(data.glob("*.jsonl"))] if data.is_dir() else [str(data)]
    if not files:
        raise ConfigError(f"{data} holds no documents (*.jsonl)")
    directory = Path(config.take) if config.take else make_tokenizer(config, name, files)
    tokenizer = load_tokenizer(directory)
    if tokenizer.spec.modality != name:
        raise ConfigError(f"{directory} is a tokenizer of {tokenizer.spec.modality!r}; this modality is {name!r}")
    vocabulary = old.extend(tokenizer.spec, tokenizer.fingerprint, config.stream, config.factors)
    vocabulary.save(out / "vocabulary.json")
    directories = {each: str(checkpoint / "tokenizers" / each) for each in old.modality_names} | {name: str(directory)}
    sources = {split: {"files": files, "split": split, "orders": config.orders} for split in ("train", "heldout")}
    text = directories.pop(TEXT)
    settings = {"out": str(out / "tokens"), "sources": sources, "text": text, "tokenizers": directories}
    tokenize.run({**settings, "vocabulary": str(out / "vocabulary.json"), "workers": config.workers}, "tokens")
    return vocabulary, directory


def make_tokenizer(config: ExtendConfig, name: str, files: list[str]) -> Path:
    """Train the tokenizer that the user's file describes, or fit it where there is nothing to train."""
    where, module = Path(config.out) / "tokenizer", objective_module(name)
    settings: Any = OmegaConf.to_container(OmegaConf.merge(getattr(module, "TRAINING", {}), config.training))
    if hasattr(module, "OBJECTIVE"):
        stage = {"modality": name, "out": str(where), **settings}
        stage["data"] = {"files": files, **settings.get("data", {})}
        trained = typed(TokenizerConfig, stage, "training")
        if not is_finished(where, trained, "tokenizer"):
            train_tokenizer(trained, "training", Ranks())
        return where / "tokenizer"
    if unknown := set(settings) - {"model"}:
        raise ConfigError(f"training.{min(unknown)}: {name} has no OBJECTIVE, so that only training.model is used")
    kind = tokenizer_class(name)
    tokenizer = kind(typed(kind.config_class, settings.get("model", {}), "training.model"))
    corpus = MediaCorpus(find_parts(files, name, "train"), tokenizer, CACHE)
    tokenizer.begin(corpus)
    tokenizer.finish(corpus)
    tokenizer.save_pretrained(where / "tokenizer")
    return where / "tokenizer"


def add_modality(checkpoint: Path, directory: Path, vocabulary: Vocabulary, tokenizer: Path, init: str) -> None:
    """Write the checkpoint as it is, with rows for all ids of `vocabulary` and one more tokenizer."""
    import transformers

    added = vocabulary.modality_names[-1]
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
    codebooks = {added: load_tokenizer(tokenizer).codebooks()}
    add_rows(model, vocabulary, Vocabulary.load(checkpoint).size, init, codebooks)
    model.config.anyglot_vocabulary = vocabulary.fingerprint
    with atomic_directory(directory) as folder:
        _copy_rest(checkpoint, folder)
        model.save_pretrained(folder)
        vocabulary.save(folder)
        shutil.copytree(tokenizer, folder / "tokenizers" / added)


def measure(
    directory: Path, vocabulary: Vocabulary, stores: Mapping[str, str], config: PretrainConfig, rank: int, world: int
) -> dict[str, dict[str, float]]:
    """Bits per id of each modality, by store: what `evaluate` gives of a checkpoint. Every rank calls it."""
    model = build_model(ModelConfig(pretrained=str(directory)), vocabulary.size)
    module = LanguageModel(model).to(local_device())
    rows = config.micro_rows or -(-config.data.rows // world)
    return {
        store: evaluate(module, TokenStore(path, vocabulary), config, rows, rank, world)
        for store, path in stores.items()
    }


def _run(
    config: ExtendConfig, name: str, vocabulary: Vocabulary, stage: str, pretrained: Path, steps: int
) -> PretrainConfig:
    """The run "rows" or "layers", as `anyglot train` would take it."""
    out = Path(config.out)
    stores = {name: {"path": str(out / "tokens" / "train"), "ratio": 1 - config.replay_share if config.replay else 1.0}}
    for each, path in config.replay.items():
        stores[each] = {"path": path, "ratio": config.replay_share / len(config.replay)}
    mapping = {
        "stage": "pretrain",
        "out": str(out / stage),
        "data": {"stores": stores},
        "heldout": {"heldout": str(out / "tokens" / "heldout"), **config.heldout},
        "tokenizers": {each: str(out / "start" / "tokenizers" / each) for each in vocabulary.modality_names},
        "model": {"pretrained": str(pretrained)},
        "new_rows": {"after": config.checkpoint},
        "freeze": ["*", "!*.new_rows", *(f"!{pattern}" for pattern in config.layers if stage == "layers")],
        "engine": {
            "learning_rate": config.layers_learning_rate,
            "new_rows_learning_rate": config.rows_learning_rate,
        },
        "schedule": {"kind": "wsd", "warmup": 20},
        "steps": steps,
    }
    merged: Any = OmegaConf.to_container(OmegaConf.merge(mapping, config.pretrain))
    return typed(PretrainConfig, merged, "pretrain")


def _copy_rest(checkpoint: Path, folder: Path) -> None:
    """What lies in a checkpoint beside weights, config and vocabulary, where `folder` does not have it."""
    for path in checkpoint.iterdir():
        if (
            ".safetensors" in path.name
            or path.name in ("config.json", "vocabulary.json")
            or (folder / path.name).exists()
        ):
            continue
        shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy2(path, folder / path.name)


def _is_prepared(config: ExtendConfig, out: Path) -> bool:
    """Whether all that comes before training is there. Raises MismatchError if it was made with other settings."""
    there = out / "config.json"
    if not there.exists():
        return False
    made_with, mapping = json.loads(there.read_text("utf-8")), to_mapping(config)
    changed = [key for key in mapping if mapping[key] != made_with.get(key)]
    if changed:
        raise MismatchError(f"{out} holds one begun with another {changed[0]!r}; give another --out, or delete it")
    return True
