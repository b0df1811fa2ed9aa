"""What a trained language model can do: any modality from any other, held against what is right and against baselines.

It is asked about sets of aligned documents: each has a part of every modality of its set, of one thing. "Seen" are
those whose ids are in the set's training store, held out those whose split says so. All figures go under flat names,
`lm.<source>_to_<target>.<figure>_<seen or heldout>`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Document, Message, Part
from anyglot.data.progress import JobProgress
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.answers import Answer
from anyglot.eval.bits import bits_per_code
from anyglot.eval.checks import Checks
from anyglot.eval.documents import load_documents, part_of, parts_of, spread
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import write_samples
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decode import Request
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.depth import DepthTransformer
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device

T = TypeVar("T")
Written = tuple[list[int], list[int]]  # ids of a prompt, and of what was written after it


@dataclass
class SetConfig:
    """documents: JSON lines of aligned documents. seen_store: token store of those that were to be learnt.
    modalities: every document that has all of them is asked for each from each other. names: how many documents are
    asked, of the seen and of the held-out ones (0: all); -1: as the whole evaluation says."""

    documents: str
    seen_store: str
    modalities: list[str]
    names: int = -1


@dataclass
class LanguageModelEval:
    """What to measure.

    checkpoint: directory of the model. sets: name -> aligned documents; no two may ask for the same direction.
    heldout_stores: bits per code are measured on them, beside the frequencies that codes have in `unigram_stores` (all
    that was trained on) together. heldout_batches: how much of each, in batches of about 4,096 tokens (0: all).
    out: folder for metrics.json, samples.json, log.jsonl (progress) and the media.
    names: documents asked about, seen and held-out ones each (0: all).
    untrained: how many seen documents of each set are also asked of the same model with random weights.
    shuffled: checkpoint of a model trained on pictures with the captions of others. keep: answers of each direction
    written as files, the first ones; half as many of the best, and of the worst. sampling: per modality.
    free: documents begun from nothing, to see what it writes of itself.
    """

    kind: str
    checkpoint: str
    sets: dict[str, SetConfig]
    unigram_stores: list[str]
    heldout_stores: list[str]
    out: str
    heldout_batches: int = 0
    names: int = 0
    untrained: int = 16
    shuffled: str = ""
    keep: int = 6
    free: int = 32
    max_tokens: int = 600
    batch: int = 64
    seed: int = 0
    sampling: dict[str, SamplingConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {
            "heldout_batches": 0,
            "names": 0,
            "untrained": 0,
            "keep": 0,
            "free": 0,
            "max_tokens": 1,
            "batch": 1,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not self.sets or not self.heldout_stores:
            raise ConfigError("sets and heldout_stores need one entry or more: what to ask about, what to predict")
        asked = [pair for one in self.sets.values() for pair in permutations(one.modalities, 2)]
        twice = [pair for pair, number in Counter(asked).items() if number > 1]
        if twice:
            raise ConfigError(f"two sets ask for {twice[0][0]} to {twice[0][1]}; leave one out of a set's modalities")


@dataclass
class World:
    """A set's documents: those that were to be learnt, and those that were held out."""

    name: str
    modalities: list[str]
    seen: list[Document]
    heldout: list[Document]
    training: list[Document]

    @property
    def groups(self) -> list[tuple[str, list[Document]]]:
        """The documents that are asked about."""
        return [("seen", self.seen), ("heldout", self.heldout)]


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures."""
    config = typed(LanguageModelEval, mapping, where)
    out = Path(config.out)
    model = Anyglot.load(config.checkpoint, local_device(), config.sampling)
    worlds = [load_world(name, one, model, config.names) for name, one in config.sets.items()]
    checks = Checks(model, [document for world in worlds for document in world.training])
    asked = [(world, source, target) for world in worlds for source, target in permutations(world.modalities, 2)]
    controls = [one for one in asked if TEXT in one[1:]]  # what is asked of the untrained model
    totals = {f"{source} to {target}": len(world.seen) + len(world.heldout) for world, source, target in asked}
    totals["from nothing"] = config.free
    pictured = [world for world in worlds if {TEXT, "image"} <= set(world.modalities)] if config.shuffled else []
    totals["shuffled"] = sum(len(world.seen) for world in pictured)
    totals["untrained"] = sum(len(world.seen[: config.untrained]) for world, _, _ in controls)

    records = Records(to_mapping(config), fingerprints(config, model))
    for world in worlds:
        records.values |= {f"lm.{world.name}_{group}": len(members) for group, members in world.groups}
    records.values |= bits_per_code(model, config.heldout_stores, config.unigram_stores, config.heldout_batches)
    directions: dict[str, list[Answer]] = {}
    written: list[Written] = []
    with JobProgress(out, {name: total for name, total in totals.items() if total}) as progress:
        for world, source, target in asked:
            here: list[Written] = []
            for group, members in world.groups:
                tell = partial(progress.advance, f"{source} to {target}")
                answers = ask(model, members, source, target, config, tell)
                figures = checks.judge(target, answers)
                records.scores |= _named(f"lm.{source}_to_{target}", figures, group)
                directions[f"{source}_to_{target}.{group}"] = answers
                here += [(answer.reply.prompt, answer.reply.ids) for answer in answers]
            if target != TEXT:
                found = validity(model, here)
                records.values |= {f"lm.{source}_to_{target}.{name.removeprefix('lm.')}": found[name] for name in found}
            written += here
        written += from_nothing(model, config, partial(progress.advance, "from nothing"))
        records.values |= validity(model, written)
        if pictured:
            shuffled = Anyglot.load(config.shuffled, local_device(), config.sampling)
            for world in pictured:
                answers = ask(shuffled, world.seen, TEXT, "image", config, partial(progress.advance, "shuffled"))
                figures = checks.judge("image", answers)
                records.scores |= _named("lm.text_to_image", figures, "shuffled")
        if config.untrained:
            random = untrained(model, config)
            for world, source, target in controls:
                some = world.seen[: config.untrained]
                answers = ask(random, some, source, target, config, partial(progress.advance, "untrained"))
                figures = checks.judge(target, answers)
                records.scores |= _named(f"lm.{source}_to_{target}", figures, "untrained")
    write_samples(model, directions, records.scores, config.keep, out)
    records.save(out)
    return records.metrics


def _named(direction: str, figures: Mapping[str, Score], group: str) -> dict[str, Score]:
    return {f"{direction}.{name}_{group}": score for name, score in figures.items()}


def fingerprints(config: LanguageModelEval, model: Anyglot) -> dict[str, str]:
    """Of the checkpoint's weights, what it was trained with, and all data that it is asked about."""
    weights = sorted(Path(config.checkpoint).glob("*.safetensors"))
    found = {"checkpoint": fingerprint_of(weights), "vocabulary": model.vocabulary.fingerprint}
    found |= {f"tokenizers.{name}": tokenizer.fingerprint for name, tokenizer in model.tokenizers.items()}
    found |= {f"sets.{name}": fingerprint_of([one.documents]) for name, one in config.sets.items()}
    stores = {*config.heldout_stores, *config.unigram_stores, *(one.seen_store for one in config.sets.values())}
    return found | {store: fingerprint_of(sorted(Path(store).glob("*.arrow"))) for store in sorted(stores)}


def load_world(name: str, config: SetConfig, model: Anyglot, names: int) -> World:
    """A set's documents. Raises AnyglotError if none of those that were to be learnt has all its modalities."""
    missing = set(config.modalities) - set(model.vocabulary.modality_names)
    if missing or len(config.modalities) < 2:
        known = ", ".join(model.vocabulary.modality_names)
        raise AnyglotError(f"sets.{name}: modalities must be two or more of the model's: {known}")
    documents = load_documents([config.documents])
    store = TokenStore(config.seen_store, model.vocabulary)
    learnt = {store.name(index).split("#")[0] for index in range(len(store))}
    whole = [d for d in documents if {part.type for part in parts_of(d)} >= set(config.modalities)]
    limit = names if config.names < 0 else config.names
    seen = spread([document for document in whole if document.id in learnt], limit)
    if not seen:
        raise AnyglotError(
            f"sets.{name}: no document of {config.seen_store} has a part of every modality in {config.documents}"
        )
    heldout = spread([document for document in whole if document.split == "heldout"], limit)
    training = [document for document in documents if document.split == "train"]
    return World(name, list(config.modalities), seen, heldout, training)


def ask(
    model: Anyglot,
    documents: Sequence[Document],
    source: str,
    target: str,
    config: LanguageModelEval,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Give the model each document's `source` part and ask for its `target`; `tell` how many more are done."""
    answers: list[Answer] = []
    for start, batch in _batches(documents, config.batch):
        prompts = [[Message(None, [_part(document, source)])] for document in batch]
        replies = model.write(prompts, target, config.max_tokens, config.seed + start)
        answers += [Answer(document, reply) for document, reply in zip(batch, replies, strict=True)]
        tell(len(batch))
    return answers


def from_nothing(
    model: Anyglot, config: LanguageModelEval, tell: Callable[[int], None] = lambda done: None
) -> list[Written]:
    """What the model writes of itself: `config.free` documents begun from nothing."""
    written: list[Written] = []
    for start, batch in _batches([model.prompt([])] * config.free, config.batch):
        requests = [
            Request(prompt, max_tokens=config.max_tokens, seed=config.seed + start + index)
            for index, prompt in enumerate(batch)
        ]
        written += zip(batch, model.decoder.write(requests), strict=True)
        tell(len(batch))
    return written


def validity(model: Anyglot, written: Sequence[Written]) -> dict[str, float]:
    """The share of media spans, in everything that was written, that parse anew and decode to finite media.

    A document that does not parse or decode costs all spans in it.
    """
    spans = valid = 0
    openers = {model.vocabulary.opener(name) for name in model.vocabulary.modality_names[1:]}
    for prompt, ids in written:
        spans += sum(token in openers for token in ids)
        try:
            parts = model.read(prompt, ids)
        except AnyglotError:
            continue
        valid += sum(part.type != TEXT and _is_sound(part.data) for part in parts)
    figures: dict[str, float] = {"lm.spans_written": spans}
    return figures | ({"lm.span_validity": valid / spans} if spans else {})


def _is_sound(media: Any) -> bool:
    """Whether codes could be decoded, and to numbers where media are numbers."""
    return media is not None and not (isinstance(media, np.ndarray) and not np.isfinite(media).all())


def untrained(model: Anyglot, config: LanguageModelEval) -> Anyglot:
    """The same architecture with weights drawn at random, and the same tokenizers."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        random = transformers.AutoModelForCausalLM.from_config(model.model.config).to(model.decoder.head)
        trained = model.decoder.depth
        depth = trained and DepthTransformer(trained.config, trained.hidden, trained.levels).to(model.decoder.head)
    return Anyglot(random, model.vocabulary, model.text, model.tokenizers, config.sampling, depth)


def _part(document: Document, modality: str) -> Part:
    part = part_of(document, modality)
    assert part is not None, "only documents with a part of every modality are asked about"
    return part


def _batches(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    return ((start, items[start : start + size]) for start in range(0, len(items), size))
