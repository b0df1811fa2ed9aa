"""What a trained language model can do: any modality from any other, held against what is right and against baselines.

Documents are aligned: each has one part per modality, of one thing. "Seen" are those whose ids are in the training
store, the others are held out. All figures go under flat names, `lm.<source>_to_<target>.<figure>_<seen or heldout>`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.config import typed
from anyglot.data.batches import single_pass
from anyglot.data.documents import Document, Message, Part
from anyglot.data.readers import read, slices
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, GrammarError
from anyglot.eval.speech import Transcriber, normalise_text, word_error_rate
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot, Reply
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.model import LanguageModel
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device


@dataclass
class LanguageModelEval:
    """What to measure.

    checkpoint: directory of the model. documents: JSON lines of aligned documents.
    train_store, heldout_store: token stores, for bits per code against the training data's unigram frequencies.
    out: folder for metrics.json, samples.json and the media. names: seen and held-out names asked for, each (0: all).
    untrained: also measure the same model with random weights. shuffled: checkpoint of a model trained on pictures
    with the captions of others. keep: samples of each direction written as files.
    sampling: per modality; free: documents begun from nothing, to see what the model writes of itself.
    """

    kind: str
    checkpoint: str
    documents: str
    train_store: str
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


@dataclass
class Answer:
    """One generation: what was asked with, what was wanted, and what came."""

    document: Document
    reply: Reply
    right: bool | None = None
    note: str = ""

    def part(self, modality: str) -> Part | None:
        """The part of a modality that was written, if any."""
        return next((part for part in self.reply.parts if part.type == modality), None)


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures."""
    config = typed(LanguageModelEval, mapping, where)
    out = Path(config.out)
    model = Anyglot.load(config.checkpoint, local_device(), config.sampling)
    documents = _documents(config.documents)
    seen_ids = {name.split("#")[0] for name in _names(TokenStore(config.train_store, model.vocabulary))}
    modalities = model.vocabulary.modality_names
    whole = [d for d in documents if {part.type for part in _parts(d)} >= set(modalities)]
    seen = [document for document in whole if document.id in seen_ids]
    heldout = [document for document in whole if document.split == "heldout"]
    if config.names:
        seen, heldout = seen[: config.names], heldout[: config.names]
    if not seen:
        raise AnyglotError(f"{config.documents}: no document of {config.train_store} has a part of every modality")

    metrics: dict[str, float] = {"lm.names_seen": len(seen), "lm.names_heldout": len(heldout)}
    metrics |= bits_per_code(model, config)
    checks = Checks(model, [d for d in documents if d.split == "train"])
    directions: dict[str, list[Answer]] = {}
    written: list[tuple[list[int], list[int]]] = []
    for source, target in permutations(modalities, 2):
        for group, members in (("seen", seen), ("heldout", heldout)):
            answers = ask(model, members, source, target, config, written)
            figures = checks.judge(target, answers, group)
            metrics |= {f"lm.{source}_to_{target}.{name}_{group}": value for name, value in figures.items()}
            directions[f"{source}_to_{target}.{group}"] = answers
    free = [model.prompt([Message(None, [])])[:1]] * config.free
    replies = model.decoder.write(_requests(free, config))
    written += list(zip(free, replies, strict=True))
    metrics |= validity(model, written)
    if config.shuffled:
        shuffled = Anyglot.load(config.shuffled, local_device(), config.sampling)
        answers = ask(shuffled, seen, TEXT, "image", config, [])
        metrics["lm.text_to_image.nearest_is_right_shuffled"] = checks.judge("image", answers, "seen")[
            "nearest_is_right"
        ]
    if config.untrained:
        metrics |= _untrained(model, checks, seen, config)
    _write_samples(model, directions, config.keep, out)
    write_json(out / "metrics.json", metrics)
    return metrics


def ask(
    model: Anyglot,
    documents: Sequence[Document],
    source: str,
    target: str,
    config: LanguageModelEval,
    written: list[tuple[list[int], list[int]]],
) -> list[Answer]:
    """Give the model each document's `source` part and ask for its `target`; note prompts and ids in `written`."""
    answers: list[Answer] = []
    for start in range(0, len(documents), config.batch):
        batch = documents[start : start + config.batch]
        prompts = [[Message(None, [_part(document, source)])] for document in batch]
        replies = model.write(prompts, target, config.max_tokens, config.seed + start)
        written += [(model.prompt(prompt), reply.ids) for prompt, reply in zip(prompts, replies, strict=True)]
        answers += [Answer(document, reply) for document, reply in zip(batch, replies, strict=True)]
    return answers


class Checks:
    """Says of answers whether they are right.

    A picture is right if of all training pictures, and its own, the one nearest to it in mean squared error is its own.
    Speech is transcribed and compared with the name by word error rate. Text must be the name.
    """

    def __init__(self, model: Anyglot, training: Sequence[Document]) -> None:
        self.model = model
        tokenizer = model.tokenizers["image"]
        self.pictures: dict[str, np.ndarray] = {}
        for document in training:
            part = _part(document, "image")
            assert part.path is not None
            self.pictures[document.id] = tokenizer.read(part.path)
        self.transcriber: Transcriber | None = None

    def judge(self, target: str, answers: Sequence[Answer], group: str) -> dict[str, float]:
        """Mark each answer right or wrong, and return the figures of all."""
        if not answers:
            return {}
        if target == "image":
            return self._pictures(answers)
        if target == "speech":
            return self._speech(answers)
        for answer in answers:
            part = answer.part(TEXT)
            answer.right = part is not None and (part.text or "").strip() == _name(answer.document)
        return {"exact": _share(answers)}

    def _pictures(self, answers: Sequence[Answer]) -> dict[str, float]:
        names = list(self.pictures)
        table = np.stack([self.pictures[name].astype(np.float32) for name in names]).reshape(len(names), -1)
        errors = []
        for answer in answers:
            part = answer.part("image")
            own = self.model.tokenizers["image"].read(_part(answer.document, "image").path or b"")
            answer.right = False
            if part is None or not isinstance(part.data, np.ndarray) or part.data.shape != own.shape:
                answer.note = "another size"
                continue
            made = part.data.astype(np.float32).reshape(-1)
            distances = ((table - made) ** 2).mean(1)
            own_distance = float(((own.astype(np.float32).reshape(-1) - made) ** 2).mean())
            errors.append(own_distance)
            nearest = names[int(distances.argmin())]
            answer.right = bool(own_distance <= distances.min())
            answer.note = "nearest is its own" if answer.right else f"nearest: {nearest.replace('_', ' ')}"
        psnr = 10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)) if errors else 0.0
        return {"nearest_is_right": _share(answers), "psnr": float(psnr)}

    def _speech(self, answers: Sequence[Answer]) -> dict[str, float]:
        self.transcriber = self.transcriber or Transcriber()
        rate = self.model.tokenizers["speech"].config.sample_rate  # type: ignore[attr-defined]
        heard = []
        for answer in answers:
            part = answer.part("speech")
            assert part is not None
            assert isinstance(part.data, np.ndarray)
            heard.append(self.transcriber(part.data, rate))
            answer.note = f"heard: {heard[-1].strip()}"
            answer.right = normalise_text(heard[-1]) == normalise_text(_name(answer.document))
        wanted = [_name(answer.document) for answer in answers]
        return {"wer": word_error_rate(wanted, heard), "heard_exactly": _share(answers)}


@torch.no_grad()
def bits_per_code(model: Anyglot, config: LanguageModelEval) -> dict[str, float]:
    """Bits per code of each modality on held-out documents, beside the training frequencies' (add-one smoothed)."""
    vocabulary = model.vocabulary
    train, heldout = (TokenStore(path, vocabulary) for path in (config.train_store, config.heldout_store))
    device = model.decoder.head.device
    counts = torch.from_numpy(train.unigram()).double() + 1
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


def validity(model: Anyglot, written: Sequence[tuple[list[int], list[int]]]) -> dict[str, float]:
    """The share of media spans, in everything that was written, that parse anew and decode to finite media."""
    spans = valid = 0
    openers = {model.vocabulary.opener(name): name for name in model.vocabulary.modality_names[1:]}
    for prompt, ids in written:
        begun = sum(token in openers for token in ids)
        spans += begun
        try:
            parts = model.read(prompt, ids)
        except GrammarError:
            continue
        valid += sum(isinstance(part.data, np.ndarray) and bool(np.isfinite(part.data).all()) for part in parts)
    return {"lm.spans_written": spans, "lm.span_validity": valid / max(spans, 1)}


def _untrained(model: Anyglot, checks: Checks, seen: Sequence[Document], config: LanguageModelEval) -> dict[str, float]:
    """The same figures of the same architecture with random weights."""
    import transformers

    torch.manual_seed(config.seed)
    random = transformers.AutoModelForCausalLM.from_config(model.model.config).to(model.decoder.head)
    untrained = Anyglot(random, model.vocabulary, model.text, model.tokenizers, config.sampling)
    figures: dict[str, float] = {}
    for source, target in ((TEXT, "image"), (TEXT, "speech"), ("image", TEXT), ("speech", TEXT)):
        judged = checks.judge(target, ask(untrained, seen, source, target, config, []), "seen")
        figures |= {f"lm.{source}_to_{target}.{name}_untrained": value for name, value in judged.items()}
    return figures


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
    media = part.data if isinstance(part.data, np.ndarray) else tokenizer.read(part.path or b"")
    path = out / "media" / f"{name}{tokenizer.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write(media, path)
    return {"type": part.type, "path": str(path.relative_to(out))}


def _requests(prompts: Sequence[list[int]], config: LanguageModelEval) -> list[Any]:
    from anyglot.inference.decode import Request

    return [Request(prompt, max_tokens=config.max_tokens, seed=config.seed + i) for i, prompt in enumerate(prompts)]


def _documents(path: str) -> list[Document]:
    return [item for part in slices(path) for item in read(part) if isinstance(item, Document)]


def _names(store: TokenStore) -> list[str]:
    return [store.name(index) for index in range(len(store))]


def _parts(document: Document) -> list[Part]:
    return [part for message in document.turns for part in message.parts]


def _part(document: Document, modality: str) -> Part:
    return next(part for part in _parts(document) if part.type == modality)


def _name(document: Document) -> str:
    return _part(document, TEXT).text or ""


def _share(answers: Sequence[Answer]) -> float:
    return sum(bool(answer.right) for answer in answers) / len(answers)
