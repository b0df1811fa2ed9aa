"""The example of a modality in one file: short, exact, and as strict as one of ours."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anyglot.errors import MediaError
from anyglot.tokenizers.base import load_tokenizer, tokenizer_class
from anyglot.tokenizers.registered import VARIABLE, register, user_module

EXAMPLE = Path(__file__).parents[1] / "examples" / "tune.py"
ABC = """X:1
T: Es ist ein Ros
M: 2/4
L: 1/16
K: F
c4 | B2^F2F2F,2_e'3 | F2=B,2B,2-
B,4z4 | B8 |]
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    register(EXAMPLE)


def tokenizer():
    kind = tokenizer_class("tune")
    return kind(kind.config_class())


def test_it_is_as_short_as_promised():
    assert len(EXAMPLE.read_text().splitlines()) < 150


def test_notes_by_hand():
    """Keys hold for the whole tune, accidentals to the bar's end and in their octave, ties join."""
    expected = [(72, 24), (70, 12), (66, 12), (66, 12), (53, 12), (87, 18)]
    expected += [(65, 12), (59, 12), (59, 36), (0, 24), (70, 48)]
    assert tokenizer().read(ABC.encode()).tolist() == [list(note) for note in expected]


@pytest.mark.parametrize("key", ["C", "G", "F#", "Db", "Em", "Gm"])
def test_what_is_written_reads_the_same_and_codes_are_exact(key, tmp_path):
    made = tokenizer()
    tune = made.read(ABC.replace("K: F", f"K: {key}").encode())
    everything = np.stack([np.arange(128), np.arange(128) * 3 + 1], 1)
    for number, media in enumerate((tune, everything)):
        path = tmp_path / f"{number}.abc"
        made.write(media, path)
        np.testing.assert_array_equal(made.read(path), media)
        (codes,) = made.encode([media])
        np.testing.assert_array_equal(made.decode([codes])[0], media)
        assert codes.dtype == torch.int64
        assert (codes >= 0).all()
        assert (codes < torch.tensor(made.spec.levels)).all()


def test_saved_and_loaded(tmp_path):
    made = tokenizer()
    made.save_pretrained(tmp_path / "tune")
    again = load_tokenizer(tmp_path / "tune")
    assert again.fingerprint == made.fingerprint
    assert again.spec == made.spec
    assert [len(vectors) for vectors in made.codebooks()] == list(made.spec.levels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X:1\nK:C\n", "there is no note in it"),
        ("X:1\nK:H\nC", "key 'H'"),
        ("X:1\nK:C\nL:1/7\nC", "unit '1/7'"),
        ("X:1\nK:C\n{g}A2", "'{' is more than plain melody"),
    ],
)
def test_what_is_not_a_tune_is_one_clear_error(text, message):
    with pytest.raises(MediaError, match=message):
        tokenizer().read(text.encode())


def test_what_has_no_code_is_refused(tmp_path):
    made = tokenizer()
    for media in (np.array([[200, 1]]), np.array([[60, 0]]), np.zeros((0, 2), int), np.ones((300, 2), int)):
        with pytest.raises(MediaError):
            made.encode([media])
    with pytest.raises(MediaError, match="must be \\[notes, 2\\]"):
        made.decode([torch.zeros(3, 3, dtype=torch.int64)])
    with pytest.raises(MediaError, match="absent.abc"):
        made.read(tmp_path / "absent.abc")


def test_songs_of_the_collection(monkeypatch):
    module = user_module("tune")
    book = (
        "\nX:1\nT: A\nO: Europa, Mitteleuropa, Deutschland, Hessen\nM: 2/4\nK: C\nC2\n\nX:2\nT: B\nO: China, Yunnan\n"
    )
    book += "M: 4/4\nK: G\nD4\n\nX:3\nT: C\nM: 4/4\nK: G\nD4\n"
    monkeypatch.setattr(module.assets, "members", lambda _: ["a/license.txt", "a/han.abc"])
    monkeypatch.setattr(module.assets, "open_member", lambda *_: book.encode("latin-1"))
    songs = list(module.songs())
    assert [song["id"] for song in songs] == ["han-0", "han-1"]
    assert [song["parts"][0]["text"] for song in songs] == ["Deutschland 2/4", "China 4/4"]
    assert [made.tolist() for made in (tokenizer().read(song["parts"][1]["content"].encode()) for song in songs)] == [
        [[60, 24]],
        [[62, 48]],
    ]
