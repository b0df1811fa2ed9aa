"""The text tokenizer is exact: any string comes back, whatever it says, and no string says more than text."""

import json
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from anyglot.errors import AnyglotError, MediaError, MismatchError
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.text import TextTokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog; 1234567890 times.",
    "grinning face with smiling eyes, red heart, thumbs up: medium skin tone",
    "  Indented   lines and\ttabs. Ünïcödé, 漢字 and 🙂🙃 too.",
    "a <s> tag, an <unk> tag, an </s> tag, an <image> tag and <0x41>",
] * 5
HOSTILE = [
    "", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\0", "a\0b", " leading", "trailing ", "   both   ",
    "\u2581", "a\u2581b", "\u2581\u2581 \u2581", "<s>", "</s>", "<unk>", "<pad>", "<image>", "<0x41>", "<0x0A>",
    "<|endoftext|>", "<|im_start|>user", "[UNK]", "[SEP]", "<tool_call>", "\u2047", " \u2047 ", "\u2585",
    "\ufffd", "\ufeff", "\u200b\u200d", "e\u0301", "\u00e9", "\ufb01", "\x7f\x80\x1c\u2028", "\U0001f642",
    "\U0001f469\U0001f3fd\u200d\U0001f680", "\u0120", "\u010a", "\U0010ffff", "hi!", "\u0416" * 40, "x" * 1000,
]  # fmt: skip


def byte_level() -> bytes:
    """As GPT-2, Llama 3 and Qwen: byte-level BPE, here with a normaliser, a prefix space and a template besides."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<image>", "!"])  # CLIP pads with "!"
    tokenizer.add_tokens(["<tool_call>", AddedToken("red heart", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding()
    return tokenizer.to_str().encode()


def byte_fallback() -> bytes:
    """As Llama 2: pieces with U+2581 for a space, bytes as <0x..>, a space put before the text."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abcdefghijklmnop<>/s",
        "he",
        "\u2581a",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("h", "e"), ("\u2581", "a")], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(["\n"])
    return tokenizer.to_str().encode()


def unigram() -> bytes:
    """As T5's successors: Unigram with byte fallback, whose pieces hold the special tokens too."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    pieces += [("\u2581", -2.0), *((c, -3.0) for c in "abcdefgh<>/stinok"), ("\u2581the", -2.5), ("<tool_call>", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(["<tool_call>"])
    return tokenizer.to_str().encode()


def few_bytes() -> bytes:
    """As SmolLM2's: byte-level, without the bytes that its training text lacked."""
    description = json.loads(byte_level())
    for byte in (0x00, 0x04, 0xF1, 0xFF):
        del description["model"]["vocab"][chr(byte if byte > 0xA0 else 0x100 + byte)]
    return json.dumps(description).encode()


TOKENIZERS = {
    "sentencepiece": TextTokenizer.train(LINES, 380),
    "byte_level": TextTokenizer("huggingface", byte_level()),
    "few_bytes": TextTokenizer("huggingface", few_bytes()),
    "byte_fallback": TextTokenizer("huggingface", byte_fallback()),
    "unigram": TextTokenizer("huggingface", unigram()),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return TOKENIZERS[request.param]


def check_exact(tokenizer: TextTokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(type(token) is int and 0 <= token < tokenizer.size for token in ids)
    assert tokenizer.engine.forbidden.isdisjoint(ids)
    return ids


def test_hostile_strings_come_back(tokenizer: TextTokenizer) -> None:
    for text in HOSTILE + LINES:
        check_exact(tokenizer, text)
    check_exact(tokenizer, "".join(HOSTILE))


def test_every_character_comes_back(tokenizer: TextTokenizer) -> None:
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 4096):
        run = "".join(characters[start : start + 4096])
        assert tokenizer.decode(tokenizer.encode(run)) == run
    for character in characters[:0x3000:3]:
        check_exact(tokenizer, f"a{character} b")


@given(st.sampled_from(sorted(TOKENIZERS)), st.lists(st.text() | st.sampled_from(HOSTILE + LINES), max_size=4))
def test_any_strings_come_back_and_join(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    ids = [token for text in texts for token in check_exact(tokenizer, text)]
    assert tokenizer.decode(ids) == "".join(texts)
    check_exact(tokenizer, "".join(texts))


@given(st.sampled_from(sorted(TOKENIZERS)), st.data())
def test_any_ids_decode(name: str, data: st.DataObject) -> None:
    """A model may write any ids: they give text, never an error, and byte streams of halves join."""
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    tokenizer.decode(ids).encode("utf-8")
    half = len(ids) // 2
    assert tokenizer.to_bytes(ids[:half]) + tokenizer.to_bytes(ids[half:]) == tokenizer.to_bytes(ids)


def test_a_lone_surrogate_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(MediaError, match="surrogate.*character 2"):
        tokenizer.encode("ab\ud800")


def test_text_is_compressed(tokenizer: TextTokenizer) -> None:
    """The exact way round must not be the usual way: ordinary text does not fall back to one id a byte."""
    text = "the quick brown fox jumps over the lazy dog"
    if tokenizer is TOKENIZERS["sentencepiece"] or tokenizer is TOKENIZERS["byte_level"]:
        assert len(tokenizer.encode(text)) < 0.6 * len(text)
    one_bad_word = tokenizer.encode(f"{text} \u2581\u2581 {text}")
    assert len(one_bad_word) <= 2 * len(tokenizer.encode(text)) + 8


def test_special_tokens_in_text_are_only_characters() -> None:
    original = Tokenizer.from_str(byte_level().decode())
    tokenizer = TOKENIZERS["byte_level"]
    for text in ("<|endoftext|>", "<image>", "<s>", "<tool_call>", "a <|im_start|> b", "my red heart"):
        added = {
            original.token_to_id(t)
            for t in ("<|endoftext|>", "<image>", "<s>", "<tool_call>", "<|im_start|>", "red heart")
        }
        assert added & set(original.encode(text, add_special_tokens=False).ids), "the original does recognise it"
        assert not added & set(tokenizer.encode(text))


def test_text_around_special_tokens_is_encoded_as_ever() -> None:
    description = json.loads(byte_level())
    description |= {"added_tokens": [], "truncation": None, "padding": None}
    without = Tokenizer.from_str(json.dumps(description))
    text = " a dog <|endoftext|> jumps over <image> and <tool_call> the fox"
    assert TOKENIZERS["byte_level"].encode(text) == without.encode(text, add_special_tokens=False).ids


def test_ids_are_the_original_ones() -> None:
    """Apart from what it must not do, an imported tokenizer gives the ids its model was trained with."""
    original = Tokenizer.from_str(byte_level().decode())
    original.no_truncation()
    for text in (" a dog jumps over 12 foxes", " grinning face"):
        assert TOKENIZERS["byte_level"].encode(text) == original.encode(text, add_special_tokens=False).ids


def test_missing_bytes_get_ids_behind_the_others() -> None:
    whole, few = TOKENIZERS["byte_level"], TOKENIZERS["few_bytes"]
    assert few.size == whole.size + 4
    assert [few.decode([token]) for token in range(whole.size, whole.size + 2)] == ["\0", "\x04"]
    for text in LINES:
        assert few.encode(text) == whole.encode(text)
    assert few.encode("a\x04b") == [*few.encode("a"), whole.size + 1, *few.encode("b")]


def test_sentencepiece_has_no_control_ids() -> None:
    spelling = TOKENIZERS["sentencepiece"].engine.spelling
    assert TOKENIZERS["sentencepiece"].size == 380
    assert all(spelling)
    assert len(set(spelling[256:])) == len(spelling[256:])


def test_lossy_tokenizers_are_refused(tmp_path: Path) -> None:
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    word_piece.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(AnyglotError, match=r"tokenizer.json: has no id for byte 0x00"):
        TextTokenizer.from_huggingface(tmp_path)
    dropping = Tokenizer.from_str(byte_level().decode())
    dropping.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel()])
    dropping.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(AnyglotError, match="altered"):
        TextTokenizer.from_huggingface(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AnyglotError, match="not a Hugging Face tokenizer.json"):
        TextTokenizer.from_huggingface(tmp_path)
    with pytest.raises(AnyglotError, match="save_pretrained"):
        TextTokenizer.from_huggingface(tmp_path / "nowhere")


def test_save_and_load(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "text")
    loaded = load_tokenizer(tmp_path / "text")
    assert isinstance(loaded, TextTokenizer)
    assert (loaded.size, loaded.fingerprint) == (tokenizer.size, tokenizer.fingerprint)
    assert loaded.encode(LINES[2]) == tokenizer.encode(LINES[2])
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(LINES[2]) == tokenizer.encode(LINES[2])


def test_altered_directories_are_refused(tmp_path: Path) -> None:
    TOKENIZERS["byte_level"].save_pretrained(tmp_path)
    model = tmp_path / "tokenizer.json"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(MismatchError, match=TOKENIZERS["byte_level"].fingerprint):
        TextTokenizer.from_pretrained(tmp_path)
    model.unlink()
    with pytest.raises(AnyglotError, match="missing"):
        TextTokenizer.from_pretrained(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "modality": "image"}))
    with pytest.raises(MismatchError, match="image"):
        TextTokenizer.from_pretrained(tmp_path)


def test_training_is_deterministic_and_refuses_too_little_text() -> None:
    again = TextTokenizer.train(LINES, 380)
    assert again.model == TOKENIZERS["sentencepiece"].model
    assert TextTokenizer.train(LINES, 370).fingerprint != again.fingerprint
    for lines, size in ((LINES, 5000), (LINES, 100), ([], 300)):
        with pytest.raises(AnyglotError, match=f"{size} text ids cannot be trained"):
            TextTokenizer.train(lines, size)


def test_long_lines_are_learned_from() -> None:
    tokenizer = TextTokenizer.train(["abracadabra " * 2000], 270)
    assert len(tokenizer.encode("abracadabra abracadabra")) < 12
