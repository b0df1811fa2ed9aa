"""What a trained language model can do: any modality from any other, held against what is right and against baselines.

Documents are aligned: each has one part per modality, of one thing. "Seen" are those whose ids are in the training
store, the others are held out. All figures go under flat names, `lm.<source>_to_<target>.<figure>_<seen or heldout>`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from math import log
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from anyglot.config import typed
from anyglot.data.batches import single_pass
from anyglot.data.documents import Document, Message, Part
from anyglot.data.progress import JobProgress
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.answers import Answer
from anyglot.eval.checks import Checks
from anyglot.eval.documents import load_documents, part_of, parts_of
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot, media_of
from anyglot.inference.decode import Request
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.model import LanguageModel
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device

T = TypeVar("T")
Written = tuple[list[int], list[int]]  # ids of a prompt, and of what was written after it


@dataclass
class LanguageModelEval:
    """What to measure.

    checkpoint: directory of the model. documents: JSON lines of aligned documents.
    seen_store: token store of the documents that were to be learnt. heldout_store: bits per code are measured on it,
    beside the frequencies that codes have in `unigram_stores` (all that was trained on) together.
    out: folder for metrics.json, samples.json, log.jsonl (progress) and the media. names: seen and held-out names
    asked for, each (0: all).
    untrained: also measure the same model with random weights. shuffled: checkpoint of a model trained on pictures
    with the captions of others. keep: samples of each direction written as files.
    sampling: per modality; free: documents begun from nothing, to see what the model writes of itself.
    """

    kind: str
    checkpoint: str
    documents: str
    seen_store: str
    unigram_stores: list[str]
    heldout_store: str
    out: str
    names: int = 0
    untrained: bool = True
    shuffled: str = ""
    keep: int = 6
    free: int = 32
    max_tokens: int = 600
    batch: int = 64
    seed: int = 0
    sampling: dict[str, SamplingConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {"names": 0, "keep": 0, "free": 0, "max_tokens": 1, "batch": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures."""
    config = typed(LanguageModelEval, mapping, where)
    out = Path(config.out)
    model = Anyglot.load(config.checkpoint, local_device(), config.sampling)
    documents = load_documents([config.documents])
    store = TokenStore(config.seen_store, model.vocabulary)
    seen_ids = {store.name(index).split("#")[0] for index in range(len(store))}
    modalities = model.vocabulary.modality_names
    whole = [d for d in documents if {part.type for part in parts_of(d)} >= set(modalities)]
    seen = [document for document in whole if document.id in seen_ids]
    heldout = [document for document in whole if document.split == "heldout"]
    if config.names:
        seen, heldout = seen[: config.names], heldout[: config.names]
    if not seen:
        raise AnyglotError(f"{config.documents}: no document of {config.seen_store} has a part of every modality")

    metrics: dict[str, float] = {"lm.names_seen": len(seen), "lm.names_heldout": len(heldout)}
    metrics |= bits_per_code(model, config)
    checks = Checks(model, [d for d in documents if d.split == "train"])
    asked = list(permutations(modalities, 2))
    controls = [pair for pair in asked if TEXT in pair]  # what is asked of the untrained model
    totals = {f"{source} to {target}": len(seen) + len(heldout) for source, target in asked}
    totals |= {"from nothing": config.free, "shuffled": bool(config.shuffled) * len(seen)}
    totals |= {"untrained": config.untrained * len(controls) * len(seen)}
    directions: dict[str, list[Answer]] = {}
    written: list[Written] = []
    with JobProgress(out, {name: total for name, total in totals.items() if total}) as progress:
        for source, target in asked:
            for group, members in (("seen", seen), ("heldout", heldout)):
                tell = partial(progress.advance, f"{source} to {target}")
                answers = ask(model, members, source, target, config, tell)
                figures = checks.judge(target, answers)
                metrics |= {f"lm.{source}_to_{target}.{name}_{group}": value for name, value in figures.items()}
                directions[f"{source}_to_{target}.{group}"] = answers
                written += [(answer.reply.prompt, answer.reply.ids) for answer in answers]
        written += from_nothing(model, config, partial(progress.advance, "from nothing"))
        metrics |= validity(model, written)
        if config.shuffled:
            shuffled = Anyglot.load(config.shuffled, local_device(), config.sampling)
            answers = ask(shuffled, seen, TEXT, "image", config, partial(progress.advance, "shuffled"))
            figures = checks.judge("image", answers)
            metrics |= {f"lm.text_to_image.{name}_shuffled": value for name, value in figures.items()}
        if config.untrained:
            random = untrained(model, config)
            for source, target in controls:
                answers = ask(random, seen, source, target, config, partial(progress.advance, "untrained"))
                figures = checks.judge(target, answers)
                metrics |= {f"lm.{source}_to_{target}.{name}_untrained": value for name, value in figures.items()}
    _write_samples(model, directions, config.keep, out)
    write_json(out / "metrics.json", metrics)
    return metrics


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


@torch.no_grad()
def bits_per_code(model: Anyglot, config: LanguageModelEval) -> dict[str, float]:
    """Bits per code of each modality on held-out documents, beside the training frequencies' (add-one smoothed)."""
    vocabulary = model.vocabulary
    heldout = TokenStore(config.heldout_store, vocabulary)
    device = model.decoder.head.device
    counts = torch.ones(vocabulary.size, dtype=torch.float64)
    for path in config.unigram_stores:
        counts += torch.from_numpy(TokenStore(path, vocabulary).unigram())
    log_frequency = torch.zeros(vocabulary.size, dtype=torch.float64)
    for block in vocabulary.blocks:
        members = counts[block.start : block.end]
        log_frequency[block.start : block.end] = (members / members.sum()).log()
    language_model = LanguageModel(model.model)
    level = torch.from_numpy(vocabulary.lookup.level)
    modality = torch.from_numpy(vocabulary.lookup.modality)
    sums = {name: np.zeros(3) for name in vocabulary.modality_names}  # ids, nats of the model, nats of the frequencies
    length = max(int(heldout.lengths.max()), 256)
    for batch in single_pass(heldout, length, 8):
        tensors = [
            torch.from_numpy(value).to(device)
            for value in (batch.input_ids, batch.position_ids, batch.document_ids, batch.labels, batch.weights)
        ]
        nll = language_model(*tensors).nll.cpu().double()
        labels = tensors[3].flatten().cpu()
        counted = tensors[4].flatten().cpu() > 0
        for index, name in enumerate(vocabulary.modality_names):
            of_this = counted & (modality[labels.clamp(min=0)] == index)
            of_this &= (level[labels.clamp(min=0)] >= 0) | (name == TEXT)
            sums[name] += [int(of_this.sum()), float(nll[of_this].sum()), -float(log_frequency[labels[of_this]].sum())]
    figures: dict[str, float] = {}
    for name, (number, nats, unigram) in sums.items():
        if number:
            unit = "token" if name == TEXT else "code"
            figures[f"lm.bits_per_{name}_{unit}_heldout"] = float(nats / number / log(2))
            figures[f"lm.bits_per_{name}_{unit}_heldout_unigram"] = float(unigram / number / log(2))
    return figures


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
    return Anyglot(random, model.vocabulary, model.text, model.tokenizers, config.sampling)


def _write_samples(model: Anyglot, directions: dict[str, list[Answer]], keep: int, out: Path) -> None:
    """Write samples.json and the media that the first answers of each direction are."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for direction, answers in directions.items():
        source, target = direction.split(".")[0].split("_to_")
        listed[direction] = []
        for number, answer in enumerate(answers[:keep]):
            made = answer.part(target)
            listed[direction].append(
                {
                    "id": answer.document.id,
                    "prompt": _written(model, _part(answer.document, source), out, f"{direction}-{number}-prompt"),
                    "answer": _written(model, made, out, f"{direction}-{number}-answer") if made else None,
                    "wanted": _written(model, _part(answer.document, target), out, f"{direction}-{number}-wanted"),
                    "note": answer.note,
                    "right": answer.right,
                }
            )
    write_json(out / "samples.json", listed)


def _written(model: Anyglot, part: Part, out: Path, name: str) -> dict[str, str]:
    """A part as JSON: its text, or a file in `out/media`."""
    if part.type == TEXT:
        return {"type": TEXT, "text": part.text or ""}
    tokenizer = model.tokenizers[part.type]
    media = media_of(tokenizer, part)
    path = out / "media" / f"{name}{tokenizer.preview_suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.preview(media, path)
    return {"type": part.type, "path": str(path.relative_to(out))}


def _part(document: Document, modality: str) -> Part:
    part = part_of(document, modality)
    assert part is not None, "only documents with a part of every modality are asked about"
    return part


def _batches(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    return ((start, items[start : start + size]) for start in range(0, len(items), size))
