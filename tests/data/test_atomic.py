"""RecBole's atomic files: typed columns, and every mistake named with its line."""

import pytest

from anyglot.data.atomic import read_atomic
from anyglot.errors import AnyglotError

GOOD = b"item_id:token\ttitle:token_seq\tyear:float\tscores:float_seq\n7\tToy Story\t1995\t1.5 2\n8\t\t1996\t\n"


def test_columns_have_their_types(tmp_path):
    (tmp_path / "a.item").write_bytes(GOOD)
    for columns in (read_atomic(tmp_path / "a.item", ["item_id"]), read_atomic(GOOD, name="bytes")):
        assert columns == {
            "item_id": ["7", "8"],
            "title": [["Toy", "Story"], []],
            "year": [1995.0, 1996.0],
            "scores": [[1.5, 2.0], []],
        }


def test_rows_end_at_line_feeds_alone_and_a_byte_order_mark_is_no_name():
    rows = "\ufeffitem_id:token\ttitle:token\r\n7\tone\u2028two\x85three\r\n8\tx\n"
    columns = read_atomic(rows.encode(), ["item_id"], name="x")
    assert columns == {"item_id": ["7", "8"], "title": ["one\u2028two\x85three", "x"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x: empty"),
        (b"item_id\ttitle:token\n", "x:1: header field 'item_id'"),
        (b"item_id:word\n", "x:1: header field 'item_id:word'"),
        (b"a:token\ta:token\n", "x:1: a column occurs twice"),
        (b"item_id:token\tyear:float\n1\n", "x:2: 1 cells, the header has 2"),
        (b"item_id:token\tyear:float\n1\t1999\n2\tlate\n", "x:3: year is 'late', no float"),
        (b"year:float\n1\n", "x: no column 'item_id'; it has: year"),
        (b"item_id:token\n\xff\n", "x: not UTF-8"),
    ],
)
def test_mistakes_are_named(data, message):
    with pytest.raises(AnyglotError, match=message):
        read_atomic(data, ["item_id"], name="x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnyglotError, match="absent.inter: cannot be read"):
        read_atomic(tmp_path / "absent.inter")
