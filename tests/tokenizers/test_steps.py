"""Files of arrays over time: what NumPy cannot read is one error that names the file, whatever NumPy raises."""

import io
import struct

import numpy as np
import pytest

from anyglot.errors import MediaError
from anyglot.tokenizers.steps import read_steps, write_steps


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, steps=np.zeros((2, 3)))
    return file.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def magic(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        npz(),
        b"PK\x03\x04 no archive",
        header((10**13, 6)),
        header((10**30, 6)),
        header((2**32, 2**32)),
        header((5, 6)) + bytes(8),
        magic(b"[" * 9000),
        magic(b"{" + b"(" * 198 + b"\n"),
        b"",
    ],
    ids=["npz", "no zip", "too much", "far too much", "wraps to 0", "cut", "deep", "open", "empty"],
)
def test_what_is_no_array_is_one_error(content: bytes, tmp_path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(MediaError, match=f"^{len(content)} bytes of steps: not a .npy file"):
        read_steps(content, "steps")
    with pytest.raises(MediaError, match=r"a\.npy: not a .npy file"):
        read_steps(tmp_path / "a.npy", "steps")


def test_arrays_come_back(tmp_path) -> None:
    steps = np.arange(6, dtype=np.int16).reshape(2, 3)
    write_steps(steps, tmp_path / "a.npy")
    for source in (tmp_path / "a.npy", (tmp_path / "a.npy").read_bytes()):
        found = read_steps(source, "steps")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, steps)
