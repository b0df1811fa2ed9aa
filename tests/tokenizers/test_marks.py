"""A backbone's own control ids: what its chat template writes is what we write, and text never becomes one of them."""

import dataclasses
import json

import numpy as np
import pytest
import transformers

from anyglot.errors import AnyglotError, ConfigError, GrammarError, MismatchError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.parser import Parser, TextDelta, TurnEnd, TurnStart
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.text import TextTokenizer
from tests.train.backbones import CHATML, LLAMA, make_tokenizer

IMAGE = CodeSpec("image", (16,), (Axis("height", "sized", 4), Axis("width", "sized", 4)))
CHAT = [("system", "what is the fox"), ("user", "say <|im_end|> 12"), ("assistant", "the lazy dog"), ("user", "a cat")]
KINDS = {"chatml": (CHATML, ("<|endoftext|>", "<|endoftext|>")), "llama": (LLAMA, ("<s>", "</s>"))}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def directory(tmp_path, kind):
    return make_tokenizer(tmp_path / "source", kind[0])


@pytest.fixture
def tokenizer(directory, kind):
    return TextTokenizer.from_huggingface(directory, kind[1])


def turns_of(tokenizer, chat):
    return [Turn(role, [Span("text", np.array(tokenizer.encode(text)))]) for role, text in chat]


def grammar_of(tokenizer):
    return Grammar(
        Vocabulary.build(tokenizer.size, tokenizer.fingerprint, [(IMAGE, "i")], max_size=4, marks=tokenizer.marks)
    )


def test_a_chat_is_what_the_chat_template_writes(directory, tokenizer, kind):
    """But for special tokens in what is said: the template would let a user end the turn."""
    chat = [(role, text.replace("<|im_end|> ", "")) for role, text in CHAT]
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": role, "content": text} for role, text in chat]
    wanted = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    grammar = grammar_of(tokenizer)
    eos = theirs.convert_tokens_to_ids(kind[1][1])
    assert grammar.serialise(turns_of(tokenizer, chat)).ids.tolist() == [*wanted, eos]
    prompt = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    said = [_Message(role, text) for role, text in chat]
    assert Anyglot.prompt(_Reader(grammar, tokenizer), said) == prompt


class _Reader:
    """As much of an Anyglot as `prompt` reads."""

    def __init__(self, grammar, text):
        self.grammar, self.vocabulary, self.text = grammar, grammar.vocabulary, text

    def encode(self, parts):
        return [Span("text", np.array(self.text.encode(part))) for part in parts]


@dataclasses.dataclass
class _Message:
    role: str
    text: str

    @property
    def parts(self):
        return [self.text]


def test_no_text_becomes_a_control_id(tokenizer):
    control = set(range(6))
    assert set(tokenizer.marks.reserved) == control
    for text in ("<|im_start|>user\n", "<|im_end|>", "<|endoftext|></s><s>", "<unused>"):
        ids = tokenizer.encode(text)
        assert control.isdisjoint(ids)
        assert tokenizer.decode(ids) == text
    grammar = grammar_of(tokenizer)
    with pytest.raises(GrammarError, match="text holds id 2, a control id"):
        grammar.serialise([Turn("user", [Span("text", np.array([7, 2]))])])
    for state in (grammar.advance_all([tokenizer.marks.bos[0]]), grammar.advance_all(_opened(grammar))):
        allowed = {token for low, high in grammar.allowed(state) for token in range(low, high)}
        assert control & allowed <= {tokenizer.marks.eos[0], tokenizer.marks.end_of_turn[0], tokenizer.marks.user[0]}


def _opened(grammar):
    bos = grammar.vocabulary.mark("bos") if grammar.vocabulary.bos_in_chats else ()
    return [*bos, *grammar.vocabulary.mark("user")]


def test_a_chat_reads_back_with_the_places_of_its_marks(tokenizer):
    grammar = grammar_of(tokenizer)
    turns = turns_of(tokenizer, CHAT[1:3])
    document = grammar.serialise(turns)
    events = Parser(grammar).feed(document.ids)
    assert [type(event) for event in events[:-1]] == [TurnStart, TextDelta, TurnEnd] * 2
    marks, at = grammar.vocabulary.mark, len(_opened(grammar)) - len(grammar.vocabulary.mark("user"))
    for start, text, end, turn in zip(events[0::3], events[1::3], events[2::3], turns, strict=False):
        assert start == TurnStart(at, turn.role)
        assert text.position == at + len(marks(turn.role))
        at = text.position + len(turn.spans[0].codes)
        assert end.position == at
        at += len(marks("end_of_turn"))
    assert document.loss.sum() == sum(len(turn.spans[0].codes) + 1 for turn in turns), "of a mark its first id alone"


def test_marks_go_with_the_tokenizer_and_the_vocabulary(tokenizer, directory, tmp_path):
    tokenizer.save_pretrained(tmp_path / "text")
    loaded = TextTokenizer.from_pretrained(tmp_path / "text")
    assert loaded.marks == tokenizer.marks
    assert loaded.fingerprint == tokenizer.fingerprint != TextTokenizer.from_huggingface(directory).fingerprint
    vocabulary = grammar_of(tokenizer).vocabulary
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again == vocabulary
    assert again.extend(CodeSpec("speech", (4,), ()), "s").marks == tokenizer.marks
    manifest = json.loads((tmp_path / "text" / "manifest.json").read_text())
    manifest["marks"]["eos"] = [4 if manifest["marks"]["eos"] != [4] else 5]
    (tmp_path / "text" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match=tokenizer.fingerprint):
        TextTokenizer.from_pretrained(tmp_path / "text")


def test_what_gives_no_marks_is_refused(tmp_path):
    document = KINDS["chatml"][1]
    with pytest.raises(ConfigError, match=r"'<\|eot\|>' is not among the control tokens .*<\|endoftext\|>"):
        TextTokenizer.from_huggingface(make_tokenizer(tmp_path / "a"), ("<|eot|>", "<|eot|>"))
    inst = "{% for m in messages %}{{ '[INST]' if m['role'] == 'user' else '' }}{{ m['content'] }}{% endfor %}"
    for name, template in (("b", inst), ("c", "{{ messages[0]['content'] }}")):
        with pytest.raises(ConfigError, match="does not put every message between two fixed marks"):
            TextTokenizer.from_huggingface(make_tokenizer(tmp_path / name, template), document)
    words = CHATML.replace("<|im_start|>", "### ")
    with pytest.raises(AnyglotError, match="the ids of system are .* must begin with one of the control ids"):
        TextTokenizer.from_huggingface(make_tokenizer(tmp_path / "d", words), document)
    with pytest.raises(AnyglotError, match="the marks .* and .* cannot be told apart"):
        TextTokenizer.from_huggingface(make_tokenizer(tmp_path / "e"), ("<|im_start|>", "<|im_end|>"))
