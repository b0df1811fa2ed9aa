"""How well a model converses: the questions of chats are asked one after the other, and its own answers stay said.

A turn is answered in the right modality if one part is written, and of the modality that the chat answers with;
rightly, if the modality's `Check` finds that part right, too. Later turns are also asked alone, with nothing said
before: what they lose by that is what the model understands of what it was told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Document, Message, Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.answers import Answer
from anyglot.eval.checks import Checks
from anyglot.eval.documents import load_documents, parts_of, spread, text_of
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.scores import Score
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot, Reply
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device


@dataclass
class ConversationEval:
    """What to measure.

    checkpoint: directory of the model. documents: files of chats; split: which of them are held. things: files of
    aligned documents: what media of the chats say or are called, and what generated ones may be mistaken for.
    out: folder for records.json, metrics.json, transcripts.json and log.jsonl (progress).
    conversations: how many (0: all). turns: how many of each are held, at most. max_tokens: of an answer.
    batch: conversations at once. sampling: per modality.
    """

    kind: str
    checkpoint: str
    documents: list[str]
    things: list[str]
    out: str
    split: str = "heldout"
    conversations: int = 0
    turns: int = 3
    max_tokens: int = 400
    batch: int = 64
    seed: int = 0
    sampling: dict[str, SamplingConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {"conversations": 0, "turns": 1, "max_tokens": 1, "batch": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass
class Exchange:
    """A question of a conversation and what is wanted. wanted: a document of the thing that the answer is a part of.

    answer: what the model said to it. alone: the same with nothing said before; None of first questions.
    """

    chat: str
    turn: int
    question: Message
    wanted: Document
    target: str
    answer: Answer | None = None
    alone: Answer | None = None


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures."""
    config = typed(ConversationEval, mapping, where)
    model = Anyglot.load(config.checkpoint, local_device(), config.sampling)
    things = load_documents(config.things)
    of_split = [chat for chat in load_documents(config.documents) if chat.split == config.split]
    named = {identity(part): thing for thing in reversed(things) for part in parts_of(thing) if part.type != TEXT}
    chats = [exchanges(chat, named)[: config.turns] for chat in spread(of_split, config.conversations)]
    if not chats:
        raise AnyglotError(f"{where}: no chat of split {config.split!r} in {', '.join(config.documents)}")
    turns = [[chat[turn] for chat in chats if len(chat) > turn] for turn in range(max(map(len, chats)))]
    totals = {f"turn {number}": len(asked) for number, asked in enumerate(turns, start=1)}
    totals |= {f"{name}, alone": number for name, number in totals.items() if name != "turn 1"}
    out = Path(config.out)
    with JobProgress(out, totals) as progress:
        hold(model, turns, config, progress.advance)
    asked = [exchange for chat in chats for exchange in chat]
    judge(Checks(model, [thing for thing in things if thing.split == "train"]), asked)
    records = Records(to_mapping(config), fingerprints(config, model), figures(chats))
    write_json(out / "transcripts.json", {chat[0].chat: [told(exchange) for exchange in chat] for chat in chats})
    records.save(out)
    return records.metrics


def exchanges(chat: Document, named: dict[str, Document]) -> list[Exchange]:
    """The questions of a chat with what is wanted.

    Args:
        named: `identity` of media -> documents that say what they are.
    Raises:
        AnyglotError: it is no chat of questions and answers of one part, or speech that no document has words for.
    """
    roles = [message.role for message in chat.turns]
    answers = [message.parts for message in chat.turns[1::2]]
    if roles != ["user", "assistant"] * len(answers) or any(len(parts) != 1 for parts in answers):
        raise AnyglotError(f"{chat.where}: not a chat of questions, each with an answer of one part")
    found = []
    for turn, (question, (part,)) in enumerate(zip(chat.turns[::2], answers, strict=True), start=1):
        parts = (
            [part] if part.type == TEXT else parts_of(named.get(identity(part), Document("", [Message(None, [part])])))
        )
        wanted = Document(f"{chat.id}/{turn}", [Message(None, parts)])
        if part.type == "speech" and not text_of(wanted):
            raise AnyglotError(f"{chat.where}: no document of `things` says what is spoken in {part.path}")
        found.append(Exchange(chat.id, turn, question, wanted, part.type))
    return found


def identity(part: Part) -> str:
    """Equal for two parts that are the same file, by whatever path, or hold the same."""
    return f"{part.type}:{part.path.resolve()}" if part.path is not None else part.key


def hold(
    model: Anyglot, turns: Sequence[Sequence[Exchange]], config: ConversationEval, tell: Callable[[str, int], None]
) -> None:
    """Hold all conversations, a turn of all at a time, and ask what comes later alone as well.

    Args:
        turns: the first exchanges of all conversations, the second ones, ... tell: a task, and how many more are done.
    """
    said: dict[str, list[Message]] = {}
    for number, asked in enumerate(turns, start=1):
        prompts = [[*said.get(exchange.chat, []), exchange.question] for exchange in asked]
        replies = answer(model, asked, prompts, config, partial(tell, f"turn {number}"))
        for exchange, prompt, reply in zip(asked, prompts, replies, strict=True):
            exchange.answer = Answer(exchange.wanted, reply)
            said[exchange.chat] = [*prompt, Message("assistant", reply.parts)]
        if number > 1:
            questions = [[exchange.question] for exchange in asked]
            replies = answer(model, asked, questions, config, partial(tell, f"turn {number}, alone"))
            for exchange, reply in zip(asked, replies, strict=True):
                exchange.alone = Answer(exchange.wanted, reply)


def answer(
    model: Anyglot,
    asked: Sequence[Exchange],
    prompts: Sequence[Sequence[Message]],
    config: ConversationEval,
    tell: Callable[[int], None],
) -> list[Reply]:
    """What the model says after each prompt, in any modality. It says nothing where earlier answers leave no room.

    An answer is drawn from a seed of its conversation and turn: neither batch nor order changes it.
    """
    replies: list[Reply] = []
    for start in range(0, len(asked), config.batch):
        part = slice(start, start + config.batch)
        requests = [
            model.request(prompt, None, config.max_tokens, _seed(config.seed, exchange.wanted.id))
            for exchange, prompt in zip(asked[part], prompts[part], strict=True)
        ]
        with_room = [request for request in requests if len(request.prompt) < model.decoder.limit]
        written = iter(model.decoder.write(with_room))
        for request in requests:
            ids = next(written) if len(request.prompt) < model.decoder.limit else []
            replies.append(Reply(request.prompt, ids, model.read(request.prompt, ids) if ids else []))
        tell(len(requests))
    return replies


def judge(checks: Checks, asked: Sequence[Exchange]) -> None:
    """Mark all answers right or wrong."""
    for target in {exchange.target for exchange in asked}:
        of_it = [exchange for exchange in asked if exchange.target == target]
        checks.judge(target, [answer for one in of_it for answer in (one.answer, one.alone) if answer is not None])


def figures(chats: Sequence[Sequence[Exchange]]) -> dict[str, Score]:
    """Shares of turns in the right modality and answered rightly, by turn and by what is to be answered with."""
    asked = [exchange for chat in chats for exchange in chat]
    groups = {
        f"turn_{number}": [one for one in asked if one.turn == number] for number in sorted({one.turn for one in asked})
    }
    groups |= {name: [one for one in asked if one.target == name] for name in sorted({one.target for one in asked})}
    found: dict[str, Score] = {}
    for name, members in groups.items():
        ids = [one.wanted.id for one in members]
        found[f"conversation.modality_{name}"] = Score.mean(
            ids, [in_modality(one.answer, one.target) for one in members]
        )
        found[f"conversation.right_{name}"] = Score.mean(ids, [is_right(one.answer, one.target) for one in members])
        if later := [one for one in members if one.alone is not None and name.startswith("turn_")]:
            alone = [is_right(one.alone, one.target) for one in later]
            found[f"conversation.right_{name}_alone"] = Score.mean([one.wanted.id for one in later], alone)
    whole = [all(is_right(one.answer, one.target) for one in chat) for chat in chats]
    found["conversation.right_throughout"] = Score.mean([chat[0].chat for chat in chats], whole)
    return found


def in_modality(answer: Answer | None, target: str) -> bool:
    """Whether one part was written, and of this modality."""
    return answer is not None and [part.type for part in answer.reply.parts] == [target]


def is_right(answer: Answer | None, target: str) -> bool:
    """Whether it is in the right modality, and what was wanted."""
    return answer is not None and bool(answer.right) and in_modality(answer, target)


def told(exchange: Exchange) -> dict[str, Any]:
    """An exchange for people to read: media as the names of their modalities."""
    found: dict[str, Any] = {"question": _words(exchange.question.parts), "wanted": exchange.target}
    for name, answer in (("answer", exchange.answer), ("alone", exchange.alone)):
        if answer is not None:
            right = is_right(answer, exchange.target)
            found[name] = {"said": _words(answer.reply.parts), "right": right, "note": answer.note}
    return found


def fingerprints(config: ConversationEval, model: Anyglot) -> dict[str, str]:
    """Of the checkpoint's weights, its vocabulary and tokenizers, and the documents."""
    found = {"checkpoint": fingerprint_of(sorted(Path(config.checkpoint).glob("*.safetensors")))}
    found |= {"vocabulary": model.vocabulary.fingerprint}
    found |= {f"tokenizers.{name}": tokenizer.fingerprint for name, tokenizer in model.tokenizers.items()}
    return found | {"documents": fingerprint_of(config.documents), "things": fingerprint_of(config.things)}


def _words(parts: Sequence[Part]) -> str:
    return " ".join(part.text or "" if part.type == TEXT else f"[{part.type}]" for part in parts)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:7], "big")
