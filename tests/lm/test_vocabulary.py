"""The vocabulary: every id means one thing, and goes on meaning it."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.lm.vocabulary import SPECIALS, Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.lm.grammar_strategies import specs, vocabularies

IMAGE = CodeSpec("image", (16, 8), (Axis("height", "sized", 6), Axis("width", "sized", 6)))
SPEECH = CodeSpec("speech", (32, 32, 32), (Axis("time", "open", 100),), rate=50)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.build(100, "aa", [(IMAGE, "bb"), (SPEECH, "cc")], max_size=6, streams={"speech": "level"})


def test_layout_by_hand(vocabulary: Vocabulary) -> None:
    assert [(b.name, b.start, b.size) for b in vocabulary.blocks] == [
        ("text", 0, 100), ("special", 100, 7), ("sizes", 107, 6), ("image.control", 113, 2), ("image.0", 115, 16),
        ("image.1", 131, 8), ("speech.control", 139, 2), ("speech.0", 141, 32), ("speech.1", 173, 32),
        ("speech.2", 205, 32),
    ]  # fmt: skip
    assert vocabulary.size == 237
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.end_of_turn) == (100, 101, 102, 106)
    assert (vocabulary.opener("speech"), vocabulary.closer("speech"), vocabulary.size_id(6)) == (139, 140, 112)
    found = vocabulary.describe(np.array([[5, 102, 109], [114, 133, 236]]))
    assert found.modality.tolist() == [[0, -1, -1], [1, 1, 2]]
    assert found.level.tolist() == [[-1, -1, -1], [-1, 1, 2]]
    assert found.code.tolist() == [[5, 2, 3], [1, 2, 31]]
    names = [vocabulary.name(token) for token in (5, 102, 109, 114, 133, 237)]
    expected = ["text 5", "eos", "size 3", "image close", "image code 2 of level 1"]
    assert names == [*expected, "id 237, which is not in this vocabulary of 237"]


@given(vocabularies())
def test_blocks_tile_the_ids_and_lookups_agree(vocabulary: Vocabulary) -> None:
    end = 0
    for block in vocabulary.blocks:
        assert block.start == end
        assert block.size > 0
        end = block.end
    assert end == vocabulary.size
    found = vocabulary.describe(np.arange(vocabulary.size))
    seen = set()
    for token, place in enumerate(zip(*(array.tolist() for array in found), strict=True)):
        block = vocabulary.blocks[place[0]]
        assert block.start <= token < block.end
        assert place[2] == block.level
        if token not in vocabulary.reserved:
            assert block.modality == (vocabulary.modality_names[place[1]] if place[1] >= 0 else "")
        seen.add((block.kind, block.modality, block.level, place[3]))
    assert len(seen) == vocabulary.size, "no two ids mean the same"
    assert len({vocabulary.name(token) for token in range(vocabulary.size)}) == vocabulary.size


@given(vocabularies(), specs("motion"), st.sampled_from(["frame", "level", "delay"]))
def test_extension_moves_no_id(vocabulary: Vocabulary, spec: CodeSpec, stream: str) -> None:
    extended = vocabulary.extend(spec, "motion-tokenizer", stream)
    assert extended.blocks[: len(vocabulary.blocks)] == vocabulary.blocks
    assert extended.size > vocabulary.size
    assert [extended.name(token) for token in range(vocabulary.size)] == list(
        map(vocabulary.name, range(vocabulary.size))
    )
    assert extended.fingerprint != vocabulary.fingerprint
    assert extended.first(len(vocabulary.modalities)).fingerprint == vocabulary.fingerprint
    assert extended.extends(vocabulary)
    assert extended.extends(extended)
    assert not vocabulary.extends(extended)
    for axis in spec.axes:
        if axis.length == "sized":
            numbers = [extended.size_id(n) for n in range(1, axis.size + 1)]
            assert len(set(numbers)) == axis.size


@given(vocabularies())
def test_fingerprint_is_of_the_content_only(vocabulary: Vocabulary) -> None:
    same = pickle.loads(pickle.dumps(vocabulary))
    assert same.fingerprint == vocabulary.fingerprint
    others = [
        Vocabulary(vocabulary.text_size, "other", vocabulary.max_size, vocabulary.modalities),
        Vocabulary(vocabulary.text_size + 1, vocabulary.text_fingerprint, vocabulary.max_size, vocabulary.modalities),
        Vocabulary(vocabulary.text_size, vocabulary.text_fingerprint, vocabulary.max_size, vocabulary.modalities[1:]),
    ]
    assert len({v.fingerprint for v in (vocabulary, *others)}) == 4


def test_fingerprint_is_stable(vocabulary: Vocabulary) -> None:
    """Shards and checkpoints on disk name it: if this must change, raise GRAMMAR_VERSION or FORMAT."""
    assert vocabulary.fingerprint == "9439010e11487b09"


def test_save_and_load(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path, {"text": "aa", "image": "bb"}) == vocabulary
    assert Vocabulary.load(tmp_path / "vocabulary.json").fingerprint == vocabulary.fingerprint
    vocabulary.save(tmp_path / "other.json")
    assert Vocabulary.load(tmp_path / "other.json") == vocabulary


def test_another_tokenizer_is_a_mismatch_that_names_both(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    with pytest.raises(MismatchError, match="speech tokenizer has fingerprint dd, .* made with cc"):
        Vocabulary.load(tmp_path, {"image": "bb", "speech": "dd"})
    with pytest.raises(MismatchError, match="text tokenizer has fingerprint zz, .* made with aa"):
        vocabulary.check({"text": "zz"})
    with pytest.raises(MismatchError, match="no modality 'video'; it has: text, image, speech"):
        vocabulary.check({"video": "ee"})
    with pytest.raises(
        MismatchError, match=f"shard-0 was made with vocabulary beef, but this is .* {vocabulary.fingerprint}"
    ):
        vocabulary.require("beef", "shard-0")
    vocabulary.require(vocabulary.fingerprint, "shard-0")


def test_damaged_files_are_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(AnyglotError, match="no vocabulary here"):
        Vocabulary.load(tmp_path)
    vocabulary.save(tmp_path)
    file = tmp_path / "vocabulary.json"
    good = json.loads(file.read_text())
    for change, message in (
        ({"grammar": 99}, "format and grammar 1.99, this version reads 1."),
        ({"max_size": 7}, "altered since it was written"),
        ({"blocks": good["blocks"][1:]}, "altered since it was written"),
        ({"text": 3}, "not a vocabulary"),
        ({"modalities": [{}]}, "not a vocabulary"),
    ):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(AnyglotError, match=message):
            Vocabulary.load(tmp_path)
    for text in (file.read_text()[:100], "[]", "\xff", ""):
        file.write_text(text)
        with pytest.raises(AnyglotError, match="not a vocabulary"):
            Vocabulary.load(tmp_path)


def test_what_cannot_be_a_vocabulary_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(AnyglotError, match="'image' is already taken"):
        vocabulary.extend(IMAGE, "dd")
    for name in ("text", "sizes", "special", "a b", "", "a.0"):
        with pytest.raises(AnyglotError, match="already taken or not a plain word"):
            vocabulary.extend(CodeSpec(name, (4,), ()), "dd")
    with pytest.raises(ConfigError, match="no stream 'spiral'"):
        vocabulary.extend(CodeSpec("video", (4,), ()), "dd", stream="spiral")
    with pytest.raises(AnyglotError, match="axis needs a size of at least 1"):
        vocabulary.extend(CodeSpec("video", (4,), (Axis("time", "open", 0),)), "dd")
    with pytest.raises(AnyglotError, match="streams name 'speach'"):
        Vocabulary.build(10, "aa", [(IMAGE, "bb")], streams={"speach": "level"})
    with pytest.raises(AnyglotError, match="at least 1"):
        Vocabulary.build(0, "aa")
    with pytest.raises(MismatchError, match="id 237 is not in this vocabulary of 237"):
        vocabulary.describe(np.array([0, 237]))
    with pytest.raises(MismatchError, match="id -1 is not"):
        vocabulary.describe(np.array([-1]))
    with pytest.raises(MismatchError, match="no number 7"):
        vocabulary.size_id(7)


def test_larger_headers_bring_their_own_sizes(vocabulary: Vocabulary) -> None:
    extended = vocabulary.extend(CodeSpec("map", (4,), (Axis("height", "sized", 9), Axis("width", "sized", 7))), "dd")
    assert [block.name for block in extended.blocks[10:]] == ["sizes.7", "map.control", "map.0"]
    assert [extended.size_id(number) for number in (1, 6, 7, 9)] == [107, 112, 237, 239]
    assert extended.name(239) == "size 9"


def test_specials_are_as_documented(vocabulary: Vocabulary) -> None:
    assert [vocabulary.name(vocabulary.special(name)) for name in SPECIALS] == list(SPECIALS)


def test_imports_are_light() -> None:
    """The vocabulary and the grammar serve command lines and data workers: no framework behind them."""
    heavy = "{'torch', 'transformers', 'deepspeed', 'pyarrow', 'sentencepiece', 'omegaconf'}"
    code = f"import sys, anyglot.lm.grammar; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
