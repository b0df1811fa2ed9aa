import json
import os
import stat

import pytest

from anyglot.files import atomic_directory, atomic_path, write_json


class StopHereError(Exception):
    pass


def write_half(context, name=""):
    """Write into an atomic file or folder and fail before the end."""
    with context as temporary:
        (temporary / name).write_text("half")
        raise StopHereError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(StopHereError):
        write_half(atomic_path(path))
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_the_temporary_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "sound.wav") as temporary:
        temporary.write_bytes(b"x")
        assert temporary.suffix == ".wav"
        assert temporary.parent == tmp_path


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    with atomic_directory(folder) as temporary:
        (temporary / "old").write_text("1")
    with pytest.raises(StopHereError):
        write_half(atomic_directory(folder), "new")
    assert os.listdir(folder) == ["old"]
    with atomic_directory(folder) as temporary:
        (temporary / "new").write_text("2")
    assert os.listdir(folder) == ["new"]
    assert os.listdir(tmp_path) == ["folder"]


def test_json_is_readable_and_refuses_what_json_cannot_say(tmp_path):
    write_json(tmp_path / "a.json", {"name": "ö", "list": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"name": "ö", "list": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert "ö" in (tmp_path / "a.json").read_text("utf-8")
