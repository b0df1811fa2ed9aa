"""A user's modality: one file, known by an environment variable, run only if that names it."""

import os
import textwrap

import pytest

from anyglot.data.documents import DocumentError, no_files, parse_part
from anyglot.errors import AnyglotError
from anyglot.tokenizers.base import objective_module, tokenizer_class
from anyglot.tokenizers.registered import VARIABLE, register, registered


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")


def write(folder, name, text="TOKENIZER = 7\nCONFIG = 8\n"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_registered_file_is_a_modality(tmp_path):
    with pytest.raises(DocumentError, match="unknown part type 'smell'"):
        parse_part({"type": "smell", "content": "rose"}, no_files)
    with pytest.raises(AnyglotError, match=f"name the file of a modality of your own in .* {VARIABLE}"):
        tokenizer_class("smell")
    path = write(tmp_path, "smell")
    assert register(path) == register(path) == "smell"
    assert registered() == {"smell": path}
    assert os.environ[VARIABLE] == str(path)
    assert tokenizer_class("smell") == 7
    assert objective_module("smell").CONFIG == 8
    assert parse_part({"type": "smell", "content": "rose"}, no_files).data == b"rose"
    assert parse_part({"type": "smell", "smell": "data:;base64,AAAA"}, no_files).data == b"\0\0\0"


def test_two_files_and_dataclasses_in_them(tmp_path):
    register(write(tmp_path, "taste", "TOKENIZER = 1"))
    text = """
        from __future__ import annotations
        from dataclasses import dataclass
        from anyglot.config import typed

        @dataclass
        class C:
            a: int = 3

        TOKENIZER = typed(C, {"a": 4})
    """
    register(write(tmp_path, "touch_of", text))
    assert list(registered()) == ["taste", "touch_of"]
    assert tokenizer_class("touch_of").a == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [("image", "modality of anyglot's own"), ("my-sense", "a Python file named like it")],
)
def test_names_that_cannot_be(tmp_path, name, message):
    with pytest.raises(AnyglotError, match=message):
        register(write(tmp_path, name))
    assert registered() == {}


def test_one_name_for_two_files_and_a_file_that_is_gone(tmp_path):
    first = write(tmp_path / "a", "balance", "TOKENIZER = 1")
    register(first)
    with pytest.raises(AnyglotError, match="keep one of them"):
        register(write(tmp_path / "b", "balance"))
    first.unlink()
    with pytest.raises(AnyglotError, match=f"no such Python file; mend {VARIABLE}"):
        tokenizer_class("balance")
    with pytest.raises(AnyglotError, match="absent.py: a modality is a Python file"):
        register(tmp_path / "absent.py")


def test_an_error_in_the_file_is_shown_each_time(tmp_path):
    register(write(tmp_path, "pain", "1 / 0"))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            tokenizer_class("pain")
