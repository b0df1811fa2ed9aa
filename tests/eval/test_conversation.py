"""Conversations: what is right by hand-made answers, whose words stand before a question, and a whole small run."""

import json
from pathlib import Path

import numpy as np
import pytest

from anyglot.config import typed
from anyglot.data.documents import Document, Message, Part
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval import conversation, speech
from anyglot.eval.answers import Answer
from anyglot.eval.documents import load_documents
from anyglot.eval.records import Records
from anyglot.inference.anyglot import Anyglot, Reply
from tests.inference.bundles import WORDS, make_bundle, write_picture, write_sound


class Deaf:
    """A recogniser that hears the same in everything."""

    def __call__(self, sound, rate):
        return "Black cat."


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, three things with pictures and recordings, and chats about them in another folder."""
    folder = tmp_path_factory.mktemp("talk")
    make_bundle(folder / "model")
    things, chats = [], []
    (folder / "chats").mkdir()
    for number, name in enumerate(WORDS[:3]):
        write_picture(folder / f"{number}.png", seed=number)
        write_sound(folder / f"{number}.wav", seed=number)
        image, sound = {"type": "image", "path": f"{number}.png"}, {"type": "speech", "path": f"{number}.wav"}
        things.append({"id": name, "split": "train", "parts": [text(name), image, sound]})
        said = [("draw " + name, image), ("and say it", sound), ("what is it?", text(name)), ("draw it", image)]
        messages = [
            message
            for question, answer in said[: 4 - number]
            for message in (
                {"role": "user", "content": question},
                {
                    "role": "assistant",
                    "content": [answer | ({"path": f"../{answer['path']}"} if "path" in answer else {})],
                },
            )
        ]
        chats.append({"id": f"chat{number}", "split": "heldout", "messages": messages})
    chats.append({**chats[0], "id": "learnt", "split": "train"})
    (folder / "things.jsonl").write_text("".join(json.dumps(one) + "\n" for one in things))
    (folder / "chats" / "chats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chats))
    return folder


def mapping(folder, **keys):
    own = {"documents": [str(folder / "chats" / "chats.jsonl")], "things": [str(folder / "things.jsonl")]}
    about = {"kind": "conversation", "checkpoint": str(folder / "model"), "out": str(folder / "out"), "max_tokens": 40}
    return about | own | keys


@pytest.fixture(scope="module")
def chats(folder):
    """Exchanges of the held-out chats."""
    named = {
        conversation.identity(part): thing
        for thing in load_documents([folder / "things.jsonl"])
        for part in thing.turns[0].parts[1:]
    }
    found = load_documents([folder / "chats" / "chats.jsonl"])
    return [conversation.exchanges(chat, named) for chat in found if chat.split == "heldout"]


def reply(*parts):
    return Reply([], [1], list(parts))


def test_a_chat_is_questions_and_the_things_that_answer_them(chats):
    assert [len(chat) for chat in chats] == [4, 3, 2]
    drawn, spoken, named, _ = chats[0]
    assert [one.target for one in chats[0]] == ["image", "speech", "text", "image"]
    assert (drawn.chat, drawn.turn, drawn.wanted.id) == ("chat0", 1, "chat0/1")
    assert [part.type for part in spoken.wanted.turns[0].parts] == ["text", "image", "speech"]  # the whole thing
    assert [part.text for part in named.wanted.turns[0].parts] == ["black cat"]
    assert drawn.question.parts[0].text == "draw black cat"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("user", 1)], "not a chat of questions"),
        ([("user", 1), ("assistant", 2)], "each with an answer of one part"),
        ([("assistant", 1), ("user", 1)], "not a chat of questions"),
    ],
)
def test_what_is_no_chat_of_questions_is_refused(turns, message):
    said = [Message(role, [Part("text", text="a")] * number) for role, number in turns]
    with pytest.raises(AnyglotError, match=f"here: .*{message}"):
        conversation.exchanges(Document("a", said, where="here"), {})


def test_speech_without_words_cannot_be_judged():
    said = [Message("user", [Part("text", text="say it")]), Message("assistant", [Part("speech", path=Path("a.wav"))])]
    with pytest.raises(AnyglotError, match=r"no document of `things` says what is spoken in a\.wav"):
        conversation.exchanges(Document("a", said), {})


def test_a_turn_is_right_in_one_part_of_the_modality_that_its_check_finds_right(chats):
    picture, words = Part("image", data=np.zeros((2, 2, 3), np.uint8)), Part("text", text="black cat")
    document = Document("a", [])
    planted = [
        (Answer(document, reply(picture), right=True), True, True),
        (Answer(document, reply(picture), right=False), True, False),
        (Answer(document, reply(picture, picture), right=True), False, False),
        (Answer(document, reply(words, picture), right=True), False, False),
        (Answer(document, reply(words), right=True), False, False),
        (Answer(document, reply(), right=False), False, False),
        (None, False, False),
    ]
    for answer, modality, right in planted:
        assert conversation.in_modality(answer, "image") is modality
        assert conversation.is_right(answer, "image") is right


def test_figures_are_shares_of_turns_counted_by_hand(folder, chats):
    def planted(target, right, written):
        part = Part(target, text="black cat" if target == "text" else None)
        return Answer(Document("a", []), reply(part if written else Part("text", text="?")), right=right)

    asked = [
        [conversation.Exchange(chat[0].chat, one.turn, one.question, one.wanted, one.target) for one in chat[:2]]
        for chat in chats
    ]
    for place, (first, second) in enumerate(asked):
        first.answer = planted("image", right=True, written=place != 2)  # two of three
        second.answer = planted("speech", right=place == 0, written=True)  # one of three, all in speech
        second.alone = planted("speech", right=False, written=True)
    figures = {name: score.value for name, score in conversation.figures(asked).items()}
    assert figures == {
        "conversation.modality_turn_1": 2 / 3,
        "conversation.right_turn_1": 2 / 3,
        "conversation.modality_turn_2": 1.0,
        "conversation.right_turn_2": 1 / 3,
        "conversation.right_turn_2_alone": 0.0,
        "conversation.modality_image": 2 / 3,
        "conversation.right_image": 2 / 3,
        "conversation.modality_speech": 1.0,
        "conversation.right_speech": 1 / 3,
        "conversation.right_throughout": 1 / 3,
    }


def test_its_own_answers_stand_before_the_next_question(folder, chats, monkeypatch):
    asked = []

    def answer(model, exchanges, prompts, config, tell):
        asked.extend(prompts)
        tell(len(exchanges))
        return [reply(Part("text", text=f"said {one.wanted.id}")) for one in exchanges]

    monkeypatch.setattr(conversation, "answer", answer)
    told = []
    config = typed(conversation.ConversationEval, mapping(folder))
    turns = [[chat[turn] for chat in chats if len(chat) > turn] for turn in range(3)]
    conversation.hold(None, turns, config, lambda task, items: told.append((task, items)))

    def words(prompt):
        return [(message.role, message.parts[0].text) for message in prompt]

    first = [("user", "draw black cat"), ("assistant", "said chat0/1"), ("user", "and say it")]
    assert words(asked[0]) == first[:1]
    assert words(asked[3]) == first
    assert words(asked[6]) == first[2:]  # alone
    assert words(asked[9]) == [*first, ("assistant", "said chat0/2"), ("user", "what is it?")]
    assert told == [("turn 1", 3), ("turn 2", 3), ("turn 2, alone", 3), ("turn 3", 2), ("turn 3, alone", 2)]
    assert chats[0][1].alone.reply.parts[0].text == "said chat0/2"


def test_a_run_measures_all_turns_whatever_the_batch(folder, monkeypatch):
    monkeypatch.setattr(speech, "Transcriber", Deaf)
    metrics = conversation.run(mapping(folder, out=str(folder / "whole"), sampling={"text": {"temperature": 1.0}}), "t")
    records = Records.load(folder / "whole")
    assert records.metrics == metrics
    assert {"checkpoint", "documents", "things", "tokenizers.image"} <= records.fingerprints.keys()
    assert records.scores["conversation.right_turn_3"].ids == ["chat0/3", "chat1/3"]
    assert len(records.scores["conversation.right_turn_2_alone"].ids) == 3
    assert "conversation.right_turn_4" not in metrics
    assert all(0 <= value <= 1 for value in metrics.values())
    transcripts = json.loads((folder / "whole" / "transcripts.json").read_text())
    assert [turn["question"] for turn in transcripts["chat1"]] == ["draw green apple", "and say it", "what is it?"]
    assert "alone" not in transcripts["chat1"][0]
    last = json.loads((folder / "whole" / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == last["steps"] == 3 + 2 * (3 + 2)
    other = mapping(folder, out=str(folder / "one"), batch=1, sampling={"text": {"temperature": 1.0}})
    assert conversation.run(other, "t") == metrics
    assert json.loads((folder / "one" / "transcripts.json").read_text()) == transcripts


def test_answers_that_leave_no_room_end_what_can_be_said(folder, chats):
    model = Anyglot.load(folder / "model")
    config = typed(conversation.ConversationEval, mapping(folder, batch=2))
    long = [Message("user", [Part("text", text="black cat " * model.decoder.limit)])]
    short = [Message("user", [Part("text", text="draw black cat")])]
    told = []
    full, heard = conversation.answer(model, [chats[0][0], chats[1][0]], [long, short], config, told.append)
    assert (full.ids, full.parts) == ([], [])
    assert heard.ids
    assert told == [2]


def test_mistakes_are_told(folder):
    with pytest.raises(ConfigError, match="turns must be at least 1"):
        conversation.run(mapping(folder, turns=0), "t")
    with pytest.raises(AnyglotError, match="no chat of split 'test'"):
        conversation.run(mapping(folder, split="test"), "t")
