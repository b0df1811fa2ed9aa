"""Conversations: every answer is of the thing that its question means, and nothing held out is spoken of."""

import json
import os
import re
from pathlib import Path

import pytest

from anyglot.config import load_mapping
from anyglot.data.corpora import conversations
from anyglot.data.corpora.dialogue import FIRST, NEXT, SMALL_TALK, WORDED
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError, ConfigError

NAMES = ["lab coat", "church", "hot dog", "eyes"]
COLOURED = ["red heart", "blue heart", "green heart", "red book"]  # of one book nothing can be asked "in blue"
FILMS = [
    "Toy Story (1995). Genres: Comedy",
    "Usual Suspects, The (1995). Genres: Crime",
    "Postino, Il (1994). Genres: Drama",
]
FILMS += [f"Film {number} ({number}). Genres: Drama" for number in range(1990, 1997)]


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files of the other corpora, small; every document called "secret" is held out."""
    folder = tmp_path_factory.mktemp("world")

    def write(path, documents):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("".join(json.dumps(document) + "\n" for document in documents))

    def named(name, *modalities, split="train"):
        stem = name.replace(" ", "_")
        media = {"image": f"images/{stem}.png", "speech": f"speech/{stem}.wav"}
        parts = [text(name), *({"type": modality, "path": media[modality]} for modality in modalities)]
        return {"id": stem, "split": split, "parts": parts}

    def move(name, seen, split="train"):
        film = f"video/{name}-{split}-{seen.replace(' ', '_')}.mp4"
        parts = [text(f"{name}, in red, seen from the {seen}"), {"type": "video", "path": film}]
        return {"id": film, "split": split, "parts": [*parts, {"type": "motion", "path": f"motion/{name}-{split}.npy"}]}

    both = ("image", "speech")
    write("data/paired.jsonl", [named(name, *both) for name in NAMES])
    pictures = [named(name, *both) for name in NAMES] + [named(name, "image") for name in COLOURED]
    write("data/emoji.jsonl", [*pictures, named("purple heart", *both, split="heldout")])
    write(
        "moves/paired.jsonl",
        [move(n, s, p) for n in ("walk", "jump") for p in ("train", "heldout") for s in ("front", "left")],
    )
    molecules = [("menthol", "CCO"), ("secret acid", "CC"), ("far away", "CCC"), ("indigo", "C=O")]
    write(
        "molecules/molecules.jsonl",
        [
            {"id": name, "split": "heldout" if "secret" in name else "train", "parts": [text(name), graph]}
            for name, smiles in molecules
            for graph in [{"type": "graph", "content": smiles}]
        ],
    )
    films = [
        {
            "id": str(n),
            "split": "heldout" if n == 3 else "train",
            "parts": [text(words), {"type": "item", "content": "{}"}],
        }
        for n, words in enumerate(FILMS)
    ]
    write("movielens/items.jsonl", films)
    rated = [{"type": "item", "content": str(n)} for n in (8, 1, 99, 0, 3, 2, 4, 5)]
    write(
        "movielens/histories.jsonl",
        [{"id": "u", "split": "train", "parts": rated}, {"id": "u", "split": "test", "parts": []}],
    )
    return folder


def build(world, out, *overrides):
    own = [f"vars.run={world}", "most={names: 9, molecules: 2, films: 8}", "heldout=20", *overrides, "corpus=null"]
    conversations.run(load_mapping("corpora/conversations", own), out, "corpora/conversations")
    return out / "conversations.jsonl"


@pytest.fixture(scope="module")
def chats(world):
    path = build(world, world / "conversations")
    found = [chat for part in slices(path) for chat in read(part)]
    assert not any(isinstance(chat, Problem) for chat in found)
    return found


def content(part):
    """A part as what it holds, media by the path from the world's folder on."""
    if part.path is not None:
        return os.path.normpath(part.path)
    return part.text if part.type == "text" else part.data.decode()


def things(world):
    """Name -> what may be answered about it, by modality: written out by hand."""
    at = lambda path: os.path.normpath(world / path)  # noqa: E731
    found = {}
    for name in NAMES:
        stem = name.replace(" ", "_")
        found[name] = {"text": name, "image": at(f"data/images/{stem}.png"), "speech": at(f"data/speech/{stem}.wav")}
    for name in COLOURED[:3]:
        found[name] = {"text": name, "image": at(f"data/images/{name.replace(' ', '_')}.png")}
    for name in ("walk", "jump"):
        for seen in ("front", "left"):
            film = at(f"moves/video/{name}-train-{seen}.mp4")
            words = f"{name}, in red, seen from the {seen}"
            motion = at(f"moves/motion/{name}-train.npy")
            found[name + (", seen from the left" if seen == "left" else "")] = {
                "text": words,
                "name": name,
                "video": film,
                "motion": motion,
            }
    found |= {"menthol": {"text": "menthol", "graph": "CCO"}, "far away": {"text": "far away", "graph": "CCC"}}
    found["indigo"] = {"text": "indigo", "graph": "C=O"}
    titles = ["Toy Story", "The Usual Suspects", "Il Postino", None, *(f"Film {n}" for n in range(1991, 1996))]
    found |= {title: {"text": FILMS[n], "item": str(n)} for n, title in enumerate(titles) if title}
    return found


def meant(question, last, known):
    """What a question is about: what it shows, else names, else the same in another colour, else what the last was."""
    shown = [content(part) for part in question if part.type != "text"]
    (words,) = (part.text for part in question if part.type == "text")
    if shown:
        return [name for name, parts in known.items() if shown[0] in parts.values()]
    colour = re.search(r"in (red|green|blue)\b", words)
    if colour:
        return [f"{colour[1]} heart"]
    named = [name for name in known if re.search(rf"\b{re.escape(name)}\b", words)]
    return [max(named, key=len)] if named else last


def test_every_answer_is_of_what_its_question_means(chats, world):
    known = things(world)
    talk = {question: answer for questions, answer in SMALL_TALK for question in questions}
    asked, answered = set(), set()
    for chat in chats:
        assert [turn.role for turn in chat.turns] == ["user", "assistant"] * (len(chat.turns) // 2)
        last = []
        for question, answer in zip(chat.turns[::2], chat.turns[1::2], strict=True):
            (part,) = answer.parts
            words = question.parts[-1].text
            if words in talk:
                assert part.text == talk[words]
                last = []
                continue
            if "i liked" in words or "good after" in words or words in ("another one", "and after that?", "what else?"):
                assert part.type == "item"
                last = [name for name, parts in known.items() if content(part) == parts.get("item")]
                continue
            about = meant(question.parts, last, known)
            own = {value for name in about for value in known[name].values()}
            assert content(part) in own, (chat.id, words, last)
            shown = {content(one) for one in question.parts if one.type != "text"}
            assert content(part) not in shown
            last = [name for name, parts in known.items() if content(part) in parts.values()]
            asked.add(words)
            answered.add(part.type)
    assert answered == {"text", "image", "speech", "video", "motion", "graph", "item"}
    assert {
        "and say it",
        "now in blue",
        "now church",
        "film it, seen from the left",
        "draw the molecule far away",
    } & asked


def test_what_a_question_asks_for_is_what_it_says(chats):
    """Verbs mean modalities, whoever is spoken of."""
    for chat in chats:
        for question, answer in zip(chat.turns[::2], chat.turns[1::2], strict=True):
            words, target = question.parts[-1].text, answer.parts[0].type
            if words.startswith(("please draw", "a picture of")):
                assert target == "image"
            if words.startswith(("say", "please say", "and say", "now say")):
                assert target == "speech"
            if words.startswith(("film", "a video of", "show me a video")):
                assert target == "video"
            if words.startswith(("show me how", "how does one", "move:")):
                assert target == "motion"
            if "molecule" in words and not words.startswith(("which", "what is")):
                assert target == "graph"
            if words.startswith(("find", "do you have")):
                assert target == "item"
            if words.startswith(("what is it", "what is this", "what was said", "what happens")):
                assert target == "text"


def test_nothing_held_out_or_unknown_is_spoken_of(chats):
    said = [content(part) for chat in chats for turn in chat.turns for part in turn.parts]
    assert not [one for one in said if "secret" in one or "heldout" in one or "purple" in one or "red book" in one]
    assert not [one for one in said if one in ("3", "9", FILMS[3], FILMS[9])]  # held out, and past the known ones


def test_every_first_question_about_every_thing_begins_a_conversation(chats, world):
    train = [chat for chat in chats if chat.split == "train"]
    begun = [(content(chat.turns[0].parts[0]), content(chat.turns[1].parts[0])) for chat in train]
    numbers = {"name": 4, "colour": 3, "move": 4, "molecule": 3, "film": 8}
    openings = sum(number * sum(1 if one.given else WORDED for one in FIRST[kind]) for kind, number in numbers.items())
    assert len(train) == 3 * (openings + 2 * (openings // 12))  # with advice and small talk
    for name in NAMES:
        parts = things(world)[name]
        for given, answer in (("image", "text"), ("speech", "text"), ("image", "speech"), ("speech", "image")):
            assert begun.count((parts[given], parts[answer])) == 3
    lengths = {len(chat.turns) // 2 for chat in train}
    assert lengths == {1, 2, 3, 4, 5}


def test_unseen_conversations_are_long_and_share_no_three_turns_with_training(chats):
    def threes(chat):
        said = [(turn.role, *(content(part) for part in turn.parts)) for turn in chat.turns]
        return {tuple(said[start : start + 6]) for start in range(0, len(said) - 5, 2)}

    train = {three for chat in chats if chat.split == "train" for three in threes(chat)}
    heldout = [chat for chat in chats if chat.split == "heldout"]
    assert len(heldout) == 20
    assert train
    for chat in heldout:
        assert len(chat.turns) >= 6
        assert not threes(chat) & train
        assert not any("i liked" in (turn.parts[-1].text or "") for turn in chat.turns)  # who is to say what is right?


def test_advice_is_what_somebody_rated_next(chats):
    rated = ["8", "1", "0", "2", "4", "5"]  # of the films that are known
    titles = {parts["item"]: name for name, parts in things(Path()).items() if "item" in parts}
    found = 0
    for chat in chats:
        for place, turn in enumerate(chat.turns):
            liked = re.fullmatch(r"i liked (.*) and (.*)\. what should i watch next\?", turn.parts[-1].text or "")
            if liked:
                assert list(liked.groups()) == [titles[one] for one in rated[:2]]
                assert content(chat.turns[place + 1].parts[0]) == rated[2]
                found += 1
            if turn.parts[-1].text in ("another one", "and after that?", "what else?"):
                assert content(chat.turns[place + 1].parts[0]) == rated[3]
    assert found


def test_the_same_settings_write_the_same_and_a_finished_corpus_is_kept(world):
    first, again = (build(world, world / name) for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
    before = first.stat().st_mtime_ns
    assert build(world, world / "first").stat().st_mtime_ns == before
    assert build(world, world / "first", "seed=1").read_bytes() != again.read_bytes()


def test_mistakes_are_told(world, tmp_path, monkeypatch):
    with pytest.raises(AnyglotError, match="nowhere.jsonl: cannot be read .*fetch the corpus"):
        build(world, tmp_path, "names=nowhere.jsonl")
    with pytest.raises(ConfigError, match="turns at least 3"):
        build(world, tmp_path, "turns=2")
    with pytest.raises(ConfigError, match="most: moves cannot be limited; names, molecules, films can"):
        build(world, tmp_path, "most.moves=3")
    (tmp_path / "empty.jsonl").write_text(json.dumps({"id": "a", "split": "heldout", "parts": []}) + "\n")
    with pytest.raises(AnyglotError, match=r"empty.jsonl: no training document"):
        build(world, tmp_path, f"names={tmp_path / 'empty.jsonl'}")
    monkeypatch.setattr(conversations, "TRIES", 0)
    with pytest.raises(AnyglotError, match="of 20 unseen conversations cannot be had"):
        build(world, tmp_path)


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("Usual Suspects, The (1995). Genres: Crime", "The Usual Suspects"),
        ("Good, the Bad (1966)", "Good, the Bad"),
        ("Seven (Se7en) (1995). Genres: Crime", "Seven"),
        ("Clueless", "Clueless"),
    ],
)
def test_titles_are_as_they_are_said(words, title):
    assert conversations.title_of(words) == title


def test_what_follows_an_answer_is_not_that_answer_again():
    for kind, by_answer in NEXT.items():
        assert kind in FIRST
        for answer, questions in by_answer.items():
            assert all(question.answer != answer and not question.given for question in questions)
