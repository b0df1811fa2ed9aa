"""Random vocabularies and documents for property tests: small, so that corners are common."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from anyglot.lm.grammar import Span, Turn
from anyglot.lm.vocabulary import ROLES, Vocabulary
from anyglot.tokenizers.marks import Marks
from anyglot.tokenizers.spec import Axis, CodeSpec


@st.composite
def specs(draw: Any, modality: str, factors: int = 1) -> CodeSpec:
    """0 to 3 axes of every kind, 1 to 5 levels, or fewer that can be written as so many sub-codes."""
    levels = [base**factors for base in draw(st.lists(st.integers(2, 4), min_size=1, max_size=5 // factors))]
    axes = []
    for number in range(draw(st.integers(0, 3))):
        kinds = ("fixed", "sized", "open") if number == 0 else ("fixed", "sized")
        axes.append(Axis(f"axis{number}", draw(st.sampled_from(kinds)), draw(st.integers(1, 3))))
    return CodeSpec(modality, tuple(levels), tuple(axes))


@st.composite
def marks(draw: Any) -> Marks | None:
    """None, or those of a pretrained model whose ids 0 to 3 are reserved: as ChatML, as Llama 3, and others."""
    words = draw(st.permutations([4, 5, 6]))
    tail = st.sampled_from([(), (7,), (7, 7)])
    ends = draw(tail)
    chatml = Marks(
        bos=(0,),
        eos=(draw(st.sampled_from([0, 3])),),
        system=(1, words[0], *ends),
        user=(1, words[1], *ends),
        assistant=(1, words[2], words[0], *ends),
        end_of_turn=(2, *draw(tail)),
        bos_in_chats=draw(st.booleans()),
        reserved=(0, 1, 2, 3),
    )
    return draw(st.sampled_from([None, chatml]))


@st.composite
def vocabularies(draw: Any) -> Vocabulary:
    """One to three modalities, in any stream; the first sizes block may be too small for some headers."""
    names = ("image", "speech", "graph")[: draw(st.integers(1, 3))]
    factors = {name: draw(st.sampled_from([1, 1, 2])) for name in names}
    modalities = [(draw(specs(name, factors[name])), f"{name}-tokenizer") for name in names]
    streams = {name: draw(st.sampled_from(["frame", "level", "delay"])) for name in names}
    sizes = draw(st.integers(1, 5)), draw(st.integers(1, 4))  # of text and of the first sizes block
    own = draw(marks())
    return Vocabulary.build(sizes[0] + 8 * bool(own), "text-tokenizer", modalities, sizes[1], streams, factors, own)


def codes_of(spec: CodeSpec, seed: int) -> np.ndarray:
    """Random codes of a random legal shape."""
    generator = np.random.default_rng(seed)
    grid = [axis.size if axis.length == "fixed" else int(generator.integers(1, axis.size + 1)) for axis in spec.axes]
    return np.stack([generator.integers(0, size, grid) for size in spec.levels], axis=-1)


@st.composite
def spans(draw: Any, vocabulary: Vocabulary) -> Span:
    """Text of 0 to 4 ids, or codes of one of the modalities."""
    name = draw(st.sampled_from(vocabulary.modality_names))
    if name == "text":
        ids = draw(st.lists(st.sampled_from([*filter(vocabulary.is_text, range(vocabulary.text_size))]), max_size=4))
        return Span("text", np.array(ids, dtype=np.int64), draw(st.booleans()))
    codes = codes_of(vocabulary.modality(name).spec, draw(st.integers(0, 2**32 - 1)))
    return Span(name, codes, draw(st.booleans()))


@st.composite
def documents(draw: Any, vocabulary: Vocabulary) -> list[Turn]:
    """A plain document or a chat."""
    content = st.lists(spans(vocabulary), max_size=4)
    if draw(st.booleans()):
        return [Turn(None, draw(content))]
    return [Turn(draw(st.sampled_from(ROLES)), draw(content)) for _ in range(draw(st.integers(0, 3)))]


@st.composite
def vocabularies_with_documents(draw: Any) -> tuple[Vocabulary, list[Turn]]:
    """A vocabulary and a document of it."""
    vocabulary = draw(vocabularies())
    return vocabulary, draw(documents(vocabulary))
