"""What people ask about a thing and what is answered, turn by turn: the grammar of the demo's conversations.

A thing is a name, a coloured shape, a movement, a molecule or a film, with its parts. A first question names it or
shows it; later ones refer to what was said ("and say it", "now in blue", "now church"), go on to another thing, or are
small talk. Every answer is a part of a real document.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

Part = dict[str, Any]  # as documents have it, in JSON

LENGTHS = {"text": 12, "image": 68, "speech": 100, "video": 300, "motion": 15, "graph": 32, "item": 6}  # tokens, about
FOLLOW, ALIKE, CHAT = 0.5, 0.65, 0.72  # up to which share of later turns: of the same thing, of one alike, small talk
ADVISE = 0.1  # share of advice in what is new
WORDED = 3  # how much oftener things are asked for in words than shown
PLAINEST = 0.5  # how often a question is asked in the first of its words


class Question(NamedTuple):
    """What can be asked: in `words`, the plainest first, with the thing's part `given` ("": none), for its `answer`."""

    words: tuple[str, ...]
    given: str
    answer: str


FIRST = {  # what is asked about a thing that was not spoken of
    "name": [
        Question(("draw {name}", "please draw {name}", "a picture of {name}, please"), "", "image"),
        Question(("say {name}", "please say {name}", "how do you say {name}?"), "", "speech"),
        Question(("what is this?", "what do you see?", "what is in this picture?"), "image", "text"),
        Question(("what was said?", "what did you hear?", "what is this?"), "speech", "text"),
        Question(("say what this is", "say what you see"), "image", "speech"),
        Question(("draw what you hear", "draw this"), "speech", "image"),
    ],
    "colour": [
        Question(("draw {name}", "please draw {name}", "a picture of {name}, please"), "", "image"),
        Question(("what is this?", "what do you see?", "what is in this picture?"), "image", "text"),
    ],
    "move": [
        Question(("film {name}{view}", "a video of {name}{view}", "show me a video of {name}{view}"), "", "video"),
        Question(("show me how to {name}", "how does one {name}?", "move: {name}"), "", "motion"),
        Question(("what is this?", "what happens here?", "what is in this video?"), "video", "text"),
        Question(("what is this?", "what happens here?", "which movement is this?"), "motion", "name"),
        Question(("how does one do this?", "now as a motion", "take the motion out of this"), "video", "motion"),
        Question(("film this{view}", "a video of this{view}"), "motion", "video"),
    ],
    "molecule": [
        Question(
            ("the molecule {name}, please", "draw the molecule {name}", "show me the molecule {name}"), "", "graph"
        ),
        Question(("what is this?", "which molecule is this?", "what is this molecule called?"), "graph", "text"),
    ],
    "film": [
        Question(("find {name}", "find the film {name}", "do you have {name}?"), "", "item"),
        Question(("what is this?", "which film is this?", "what is this film about?"), "item", "text"),
    ],
}
NEXT = {  # what is asked further about it, by what was answered last
    "name": {
        "image": [
            Question(("and say it", "now say it", "say it", "how do you say it?"), "", "speech"),
            Question(("what is it?", "what is it called?", "what did you draw?"), "", "text"),
        ],
        "speech": [
            Question(("and draw it", "now draw it", "draw it", "what does it look like?"), "", "image"),
            Question(("what is it?", "what did you say?"), "", "text"),
        ],
        "text": [
            Question(("and say it", "now say it", "say it", "how do you say it?"), "", "speech"),
            Question(("and draw it", "now draw it", "draw it", "what does it look like?"), "", "image"),
        ],
    },
    "colour": {"image": [Question(("what is it?", "what is it called?", "what did you draw?"), "", "text")]},
    "move": {
        "video": [
            Question(("how does one do it?", "now as a motion", "show me how"), "", "motion"),
            Question(("what is it?", "what happens there?"), "", "text"),
        ],
        "motion": [
            Question(("film it{view}", "now film it{view}", "and as a video{view}"), "", "video"),
            Question(("what is it?", "what is it called?"), "", "name"),
        ],
        "text": [Question(("how does one do it?", "now as a motion", "show me how"), "", "motion")],
        "name": [Question(("film it{view}", "now film it{view}", "and as a video{view}"), "", "video")],
    },
    "molecule": {"graph": [Question(("what is it?", "what is it called?", "which molecule is it?"), "", "text")]},
    "film": {"item": [Question(("what is it about?", "tell me about it", "which film is it?"), "", "text")]},
}
ANOTHER = ("now {name}", "and {name}?", "{name} too, please")
OTHER_COLOUR = ("now in {colour}", "and in {colour}?", "the same in {colour}, please")
ADVICE = ("i liked {first} and {second}. what should i watch next?", "what is good after {first} and {second}?")
MORE_ADVICE = ("another one", "and after that?", "what else?")
SMALL_TALK = (
    (("hello", "hi", "good morning"), "hello! ask me for pictures, speech, videos, motions, molecules or films."),
    (("what can you do?", "help"), "i draw, speak, film, move, know molecules, find films, and name what you show me."),
    (("who are you?", "what are you?"), "a small language model that reads and writes every medium."),
    (("thank you", "thanks"), "you are welcome."),
    (("goodbye", "bye"), "goodbye!"),
)


@dataclass(frozen=True)
class Thing:
    """What is spoken of. kind: a key of FIRST. parts: "text", "name" (as text) and its media.

    view: from where it was filmed, as it is asked for. family, colour: of things that differ in colour alone.
    """

    kind: str
    name: str
    parts: dict[str, Part] = field(hash=False)
    view: str = ""
    family: str = ""
    colour: str = ""


class Turn(NamedTuple):
    """A question with its answer; what it is about, and which of its parts the answer is ("": small talk)."""

    user: list[Part]
    assistant: Part
    thing: Thing | None = None
    answer: str = ""

    @property
    def length(self) -> int:
        """About how many tokens it takes."""
        return sum(LENGTHS[part["type"]] for part in (*self.user, self.assistant)) + 6  # marks of the turns


class World:
    """All that can be spoken of.

    openings: every first question about every thing, those in words several times: media are more to learn than names.
    things: no two of a kind have a name in common. tastes: films in the order in which somebody rated them, four each.
    """

    def __init__(self, things: Sequence[Thing], tastes: Sequence[Sequence[Thing]]) -> None:
        self.openings = [
            (thing, question)
            for thing in things
            for question in FIRST[thing.kind]
            for _ in range(1 if question.given else WORDED)
        ]
        self.tastes = [tuple(taste) for taste in tastes]
        self.kinds: dict[str, list[Thing]] = defaultdict(list)
        self.families: dict[str, list[Thing]] = defaultdict(list)
        for thing in things:
            self.kinds[thing.kind].append(thing)
            self.families[thing.family].append(thing)

    def conversation(self, first: Sequence[Turn], turns: int, room: int, random: Random) -> list[Turn]:
        """Go on from what was said first, up to `turns` turns of about `room` tokens together."""
        said = list(first)
        while len(said) < turns:
            turn = self._next(said, random)
            if sum(one.length for one in (*said, turn)) > room:
                break
            said.append(turn)
        return said

    def advice(self, taste: Sequence[Thing], random: Random) -> list[Turn]:
        """Two films that somebody liked, and what they rated next; what it is, or what they rated after that."""
        first, second, third, fourth = taste
        words = random.choice(ADVICE).format(first=first.name, second=second.name)
        turns = [Turn([text(words)], third.parts["item"], third, "item")]
        if random.random() < 0.5:
            turns.append(ask(third, random.choice(NEXT["film"]["item"]), random))
        else:
            turns.append(Turn([text(random.choice(MORE_ADVICE))], fourth.parts["item"], fourth, "item"))
        return turns

    def _next(self, said: Sequence[Turn], random: Random) -> Turn:
        """A turn that may follow: about the last thing, one alike, small talk, or something new."""
        last, chance = said[-1], random.random()
        if last.thing is not None and chance < FOLLOW:
            known = {turn.answer for turn in said if turn.thing == last.thing}
            further = NEXT[last.thing.kind].get(last.answer, [])
            if open_ones := [question for question in further if question.answer not in known]:
                return ask(last.thing, random.choice(open_ones), random)
        if last.thing is not None and chance < ALIKE and (alike := self._alike(last, random)):
            return alike
        if ALIKE <= chance < CHAT:
            return small_talk(random)
        if self.tastes and random.random() < ADVISE:
            return self.advice(random.choice(self.tastes), random)[0]
        thing, question = random.choice(self.openings)
        return ask(thing, question, random)

    def _alike(self, last: Turn, random: Random) -> Turn | None:
        """The same asked of another: the shape in another colour, or another name. Only of what is asked in words."""
        thing = last.thing
        if thing is None or last.answer not in {q.answer for q in FIRST[thing.kind] if not q.given}:
            return None
        if thing.family:
            others = [other for other in self.families[thing.family] if other.colour != thing.colour]
            other, words = random.choice(others), random.choice(OTHER_COLOUR)
        else:
            others = [other for other in self.kinds[thing.kind] if other.name != thing.name]
            other, words = random.choice(others), random.choice(ANOTHER)
        asked = text(
            words.format(name=other.name + (other.view if last.answer == "video" else ""), colour=other.colour)
        )
        return Turn([asked], other.parts[last.answer], other, last.answer)


def ask(thing: Thing, question: Question, random: Random) -> Turn:
    """A question about a thing, in some of its words, with its answer."""
    plainest, *others = question.words
    words = plainest if random.random() < PLAINEST else random.choice(others)
    given = [thing.parts[question.given]] if question.given else []
    asked = text(words.format(name=thing.name, view=thing.view))
    return Turn([*given, asked], thing.parts[question.answer], thing, question.answer)


def small_talk(random: Random) -> Turn:
    """A question that is about nothing."""
    words, answer = random.choice(SMALL_TALK)
    return Turn([text(random.choice(words))], text(answer))


def text(words: str) -> Part:
    """Words as a part."""
    return {"type": "text", "text": words}
