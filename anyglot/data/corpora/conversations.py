"""Conversations over seven modalities about what other corpora hold: names, movements, molecules and films.

Written below the output folder:
    conversations.jsonl   chats, media by paths to where the other corpora keep them. Split "train": every first
                          question about every thing, and what follows by chance. Split "heldout": the same things and
                          questions; no three turns in a row are those of a training conversation
    conversations.json    the config, hashes of the files it is made of, and counts; written last
Only training documents are spoken of. What is asked is in `dialogue`.
"""

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.corpora.dialogue import Thing, Turn, World, ask, small_talk, text
from anyglot.errors import AnyglotError, ConfigError
from anyglot.files import write_json, write_text

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
LIMITED = ("names", "molecules", "films")
TASTE = 4  # films that advice is made of: two liked, two rated next
TRIES = 100  # conversations made for each unseen one that is wanted, at most


@dataclass
class ConversationsCorpus:
    """Fields of configs/corpora/conversations.yaml; see there."""

    names: str
    pictures: str
    moves: str
    molecules: str
    films: str
    histories: str
    most: dict[str, int] = field(default_factory=dict)
    families: list[str] = field(default_factory=list)
    well_known: list[str] = field(default_factory=list)
    rounds: int = 2
    heldout: int = 200
    turns: int = 5
    tokens: int = 480
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.heldout < 0 or self.turns < 3:
            raise ConfigError("rounds must be at least 1, heldout at least 0, turns at least 3")
        if wrong := set(self.most) - set(LIMITED):
            raise ConfigError(f"most: {', '.join(sorted(wrong))} cannot be limited; {', '.join(LIMITED)} can")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Write the corpus to `out`; a finished one of the same settings and files is left as it is.

    Raises:
        ConfigError: a mistake in the config. AnyglotError: a file of another corpus is missing or holds nothing.
    """
    config = typed(ConversationsCorpus, mapping, where)
    sources = [config.names, config.pictures, config.moves, config.molecules, config.films, config.histories]
    described = {"config": to_mapping(config), "files": {path: _hash(path) for path in sources}}
    record = out / "conversations.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    films = film_things(config)
    things = [*name_things(config, out), *colour_things(config, out), *move_things(config, out)]
    things += [*molecule_things(config), *films.values()]
    world = World(things, list(tastes(config, films)))
    train = list(training(world, config))
    heldout = list(unseen(World(things, []), train, config))
    documents = [
        {"id": f"{split}{number}", "split": split, "messages": messages(turns)}
        for split, chats in (("train", train), ("heldout", heldout))
        for number, turns in enumerate(chats)
    ]
    write_text(out / "conversations.jsonl", "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in documents))
    write_json(record, {**described, "counts": {"train": len(train), "heldout": len(heldout)}})


def training(world: World, config: ConversationsCorpus) -> Iterator[list[Turn]]:
    """`rounds` conversations begin with each question about each thing, a twelfth each with advice and small talk."""
    for number in range(config.rounds):
        for index, (thing, question) in enumerate(world.openings):
            random = Random(f"{config.seed} train {number} {index}")
            yield _go_on(world, [ask(thing, question, random)], config, random)
        for index in range(len(world.openings) // 12):
            random = Random(f"{config.seed} advice {number} {index}")
            yield _go_on(world, [small_talk(random)], config, random)
            if world.tastes:
                yield _go_on(world, world.advice(random.choice(world.tastes), random), config, random)


def unseen(world: World, train: Sequence[list[Turn]], config: ConversationsCorpus) -> Iterator[list[Turn]]:
    """Conversations of three turns or more, of which no training conversation holds three in a row.

    Raises AnyglotError where there is so little to speak of that hardly any is new.
    """
    known = {three for turns in train for three in _threes(turns)}
    random = Random(f"{config.seed} heldout")
    left = config.heldout
    for _ in range(TRIES * config.heldout):
        thing, question = random.choice(world.openings)
        turns = world.conversation([ask(thing, question, random)], config.turns, config.tokens, random)
        if len(turns) >= 3 and not known & set(_threes(turns)):
            left -= 1
            yield turns
        if not left:
            return
    if left:
        raise AnyglotError(f"{left} of {config.heldout} unseen conversations cannot be had; set `heldout` lower")


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as the messages of a chat."""
    said = [(("user", turn.user), ("assistant", [turn.assistant])) for turn in turns]
    return [{"role": role, "content": content} for pair in said for role, content in pair]


def name_things(config: ConversationsCorpus, out: Path) -> Iterator[Thing]:
    """Names with pictures and recordings."""
    for document in islice(_documents(config.names), config.most.get("names")):
        parts = _parts(document, config.names, out)
        yield Thing("name", parts["text"]["text"], {**parts, "name": parts["text"]})


def colour_things(config: ConversationsCorpus, out: Path) -> Iterator[Thing]:
    """Pictures whose names differ in a colour alone: "red heart", "blue heart". Families of one are left out."""
    families: dict[str, list[Thing]] = defaultdict(list)
    for document in _documents(config.pictures):
        parts = _parts(document, config.pictures, out)
        name = parts["text"]["text"]
        colour, _, family = name.partition(" ")
        if colour in COLOURS and family in config.families:
            of_it = {key: parts[key] for key in ("text", "image")}
            families[family].append(Thing("colour", name, of_it, family=family, colour=colour))
    yield from (thing for family in families.values() if len(family) > 1 for thing in family)


def move_things(config: ConversationsCorpus, out: Path) -> Iterator[Thing]:
    """Movements with films and motions, each as often as it was filmed; from the second view on, the view is named."""
    views: dict[str, int] = defaultdict(int)
    for document in _documents(config.moves):
        parts = _parts(document, config.moves, out)
        name, _, seen = (piece.strip() for piece in parts["text"]["text"].split(","))
        yield Thing("move", name, {**parts, "name": text(name)}, view=f", {seen}" if views[name] else "")
        views[name] += 1


def molecule_things(config: ConversationsCorpus) -> Iterator[Thing]:
    """The first molecules, and well-known ones where they are there."""
    for number, document in enumerate(_documents(config.molecules)):
        words, graph = document["parts"]
        if number < config.most.get("molecules", number + 1) or words["text"] in config.well_known:
            yield Thing("molecule", words["text"], {"text": words, "graph": graph})


def film_things(config: ConversationsCorpus) -> dict[str, Thing]:
    """id -> film, of the first ones. Their text stays whole, their name is the title as it is said."""
    found = {}
    for document in islice(_documents(config.films), config.most.get("films")):
        words = document["parts"][0]
        parts = {"text": words, "item": {"type": "item", "content": document["id"]}}
        found[document["id"]] = Thing("film", title_of(words["text"]), parts)
    return found


def title_of(words: str) -> str:
    """The title in "Usual Suspects, The (1995). Genres: ...", as it is said: "The Usual Suspects"."""
    title = words.partition(" (")[0]
    name, comma, article = title.rpartition(", ")
    return f"{article} {name}" if comma and article in ("The", "A", "An", "Il", "La", "Le") else title


def tastes(config: ConversationsCorpus, films: dict[str, Thing]) -> Iterator[list[Thing]]:
    """Four films each, in the order in which somebody rated them, of those that have a name in conversations."""
    for document in _documents(config.histories):
        rated = [films[part["content"]] for part in document["parts"] if part["content"] in films]
        yield from (rated[start : start + TASTE] for start in range(0, len(rated) - TASTE + 1, TASTE))


def _go_on(world: World, first: list[Turn], config: ConversationsCorpus, random: Random) -> list[Turn]:
    return world.conversation(first, random.randint(1, config.turns), config.tokens, random)


def _threes(turns: Sequence[Turn]) -> list[str]:
    """Every three turns in a row, as text."""
    return [json.dumps(messages(turns[start : start + 3])) for start in range(len(turns) - 2)]


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AnyglotError(f"{path}: cannot be read ({error.strerror}); fetch the corpus that it belongs to") from error


def _documents(path: str) -> Iterator[dict[str, Any]]:
    """The training documents of a file. Raises AnyglotError if there is none."""
    found = False
    with open(path, encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            if document["split"] == "train":
                found = True
                yield document
    if not found:
        raise AnyglotError(f"{path}: no training document in it; fetch the corpus that it belongs to again")


def _parts(document: dict[str, Any], source: str, out: Path) -> dict[str, dict[str, Any]]:
    """Modality -> part, with paths that lead from `out` to where `source` is."""
    parts = {}
    for part in document["parts"]:
        here = {"path": os.path.relpath(Path(source).parent / part["path"], out)} if "path" in part else {}
        parts[part["type"]] = part | here
    return parts
