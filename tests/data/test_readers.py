import io
import json
import pickle
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyglot.data.documents import Document
from anyglot.data.readers import Problem, read, recognise, slices
from anyglot.errors import AnyglotError
from tests.data.fakes import save_png, save_wav


def read_all(path, size=2, **options):
    return [item for part in slices(path, size=size) for item in read(part, **options)]


def outline(document):
    """Roles and types of a document, text spelled out."""
    return [(turn.role, [p.text if p.type == "text" else p.type for p in turn.parts]) for turn in document.turns]


def write_lines(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def test_json_lines_of_parts_and_messages(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            {
                "id": "x",
                "split": "train",
                "parts": [{"type": "text", "text": "hi"}, {"type": "image", "path": "a.png"}],
            },
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
            {"text": "plain"},
        ],
    )
    documents = read_all(path)
    assert [(d.id, d.split) for d in documents] == [("x", "train"), (f"{path}:2", None), (f"{path}:3", None)]
    assert outline(documents[0]) == [(None, ["hi", "image"])]
    assert documents[0].turns[0].parts[1].path == tmp_path / "a.png"
    assert outline(documents[1]) == [("user", ["hi"]), ("assistant", ["ho"])]
    assert outline(documents[2]) == [(None, ["plain"])]
    assert read_all(path, media=tmp_path / "m")[0].turns[0].parts[1].path == tmp_path / "m" / "a.png"


def compressed(path, data):
    codec = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(path.suffix)
    path.write_bytes(data)
    if codec:
        with pa.output_stream(str(path), compression=codec) as file:
            file.write(data)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".ndjson.zst", ".jsonl.bz2", ".json"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_slices_cover_every_line_once_and_bad_lines_are_named(tmp_path, suffix, size):
    lines = [json.dumps({"id": str(n), "text": "ä" * n}) for n in range(7)]
    lines[2], lines[4] = '{"id": "broken', ""
    data = "\n".join(lines).encode()
    path = tmp_path / f"a{suffix}"
    compressed(path, data)
    items = read_all(path, size=size)
    assert [item.id for item in items if isinstance(item, Document)] == ["0", "1", "3", "5", "6"]
    (problem,) = [item for item in items if isinstance(item, Problem)]
    assert problem.where == f"{path}:3"
    assert problem.kind == "malformed record"


def test_limit(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(7)])
    for limit in range(1, 9):
        parts = slices(path, size=3, limit=limit)
        assert sum(len(list(read(part))) for part in parts) == min(limit, 7)


@pytest.mark.parametrize("container", ["json", "jsonl"])
def test_llava_placeholders_in_any_turn(tmp_path, container):
    records = [
        {
            "id": 7,
            "image": ["a.png", "b.png"],
            "audio": "c.wav",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "Like <image> and <audio>."},
            ],
        },
        {"image": "a.png", "conversations": [{"from": "human", "value": "<image><image>"}]},
        {"image": "a.png", "conversations": [{"from": "human", "value": "nothing"}]},
        {"conversations": [{"from": "stranger", "value": "x"}]},
        {"conversations": [{"from": "human", "value": "text only"}, {"from": "gpt", "value": "yes"}]},
    ]
    path = tmp_path / f"a.{container}"
    path.write_text(json.dumps(records) if container == "json" else "\n".join(map(json.dumps, records)))
    good, two, none, stranger, text = read_all(path)
    assert outline(good) == [
        ("user", ["image", "What is this?"]),
        ("assistant", ["Like ", "image", " and ", "speech", "."]),
    ]
    assert [p.path.name for turn in good.turns for p in turn.parts if p.path] == ["a.png", "b.png", "c.wav"]
    assert "2 image placeholder(s) but 1 image file(s)" in two.reason
    assert "0 image placeholder(s) but 1 image file(s)" in none.reason
    assert "'stranger'" in stranger.reason
    assert outline(text) == [("user", ["text only"]), ("assistant", ["yes"])]


def test_messages_with_media_columns(tmp_path):
    asked = {"role": "user", "content": "<image>what?"}
    bare = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
    records = [{"messages": [message], "images": ["a.png"]} for message in (asked, bare)]
    for document in read_all(write_lines(tmp_path / "a.jsonl", records)):
        assert outline(document) == [("user", ["image", "what?"])]
        assert document.turns[0].parts[0].path == tmp_path / "a.png"


def test_obelics_parquet(tmp_path):
    png = save_png(tmp_path / "x.png")
    struct = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    images = [[None, {"bytes": png, "path": None}], [{"bytes": png, "path": None}], [None]]
    texts = [["before", None], ["and text"], [None]]
    table = pa.table({"images": pa.array(images, struct), "texts": texts, "metadata": ["[]"] * 3})
    path = tmp_path / "o.parquet"
    pq.write_table(table, path, row_group_size=2)
    good, both, neither = read_all(path)
    assert outline(good) == [(None, ["before", "image"])]
    assert good.turns[0].parts[1].data == png
    assert "position 0: exactly one" in both.reason
    assert both.where == f"{path}: row 1"
    assert "position 0: exactly one" in neither.reason
    url = pa.table({"images": [["https://example.com/a.png", None]], "texts": [[None, "caption"]]})
    pq.write_table(url, tmp_path / "u.parquet")
    (remote,) = read_all(tmp_path / "u.parquet")
    assert "not fetched" in remote.reason


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_parquet_of_parts_in_any_slices(tmp_path, size):
    part = pa.struct([("type", pa.string()), ("text", pa.string()), ("bytes", pa.binary())])
    rows = [[{"type": "text", "text": str(n)}, {"type": "image", "bytes": b"x"}] for n in range(7)]
    path = tmp_path / "p.parquet"
    table = pa.table({"id": [str(n) for n in range(7)], "parts": pa.array(rows, pa.list_(part))})
    pq.write_table(table, path, row_group_size=3)
    documents = read_all(path, size=size)
    assert [(d.id, outline(d)) for d in documents] == [(str(n), [(None, [str(n), "image"])]) for n in range(7)]


def test_parquet_columns(tmp_path):
    pq.write_table(
        pa.table({"caption": ["a"], "image": [{"bytes": b"x", "path": None}], "width": [3]}), tmp_path / "c.parquet"
    )
    (document,) = read_all(tmp_path / "c.parquet")
    assert outline(document) == [(None, ["a", "image"])]


def write_tar(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_webdataset(tmp_path, name, size):
    png, wav = save_png(tmp_path / "x.png"), save_wav(tmp_path / "x.wav")
    chat = {"messages": [{"role": "user", "content": [{"type": "image", "path": "c.0.png"}]}]}
    members = [
        ("d/a.jpg", png),
        ("d/a.txt", b"a cat"),
        ("d/a.cls", b"3"),
        ("d/b.wav", wav),
        ("d/b.json", json.dumps({"caption": "a voice", "split": "train"}).encode()),
        ("c.0.png", png),
        ("c.json", json.dumps(chat).encode()),
        ("e.txt", b"\xff\xfe"),
        ("f.pyd", pickle.dumps({"image": 1})),
        ("f.txt", b"kept"),
    ]
    items = read_all(write_tar(tmp_path / name, members), size=size)
    documents = [item for item in items if isinstance(item, Document)]
    assert [(d.id, outline(d)) for d in documents] == [
        ("d/a", [(None, ["image", "a cat"])]),
        ("d/b", [(None, ["speech", "a voice"])]),
        ("c", [("user", ["image"])]),
        ("f", [(None, ["kept"])]),
    ]
    assert documents[1].split == "train"
    reasons = {item.kind: item.reason for item in items if isinstance(item, Problem) and ".cls" not in item.reason}
    assert "utf-8" in reasons["malformed record"]
    assert "pickles are never read" in reasons["ignored member"]


def test_damaged_files_are_reported_and_what_came_before_is_kept(tmp_path):
    content = b"x" * 5000
    whole = write_tar(tmp_path / "w.tar", [(f"{n}.txt", content) for n in range(4)])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: 512 * 2 * 11 + 2000])
    items = read_all(cut, size=1)
    assert sum(isinstance(item, Document) for item in items) >= 1
    assert items[-1].kind == "unreadable file"
    assert str(cut) in items[-1].where
    for name in ("p.parquet", "a.json", "t.tar"):
        path = tmp_path / name
        path.write_bytes(b"[ this is not what its name says")
        (problem,) = read_all(path)
        assert (problem.where, problem.kind) == (str(path), "unreadable file")


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(AnyglotError, match="no such file"):
        slices(tmp_path / "none.jsonl")
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(AnyglotError, match="set `format`"):
        recognise(tmp_path / "a.csv")
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "x"}])
    (problem,) = read_all(path)
    assert "keys prompt are no known kind" in problem.reason
    with pytest.raises(AnyglotError, match="unknown schema 'parts2'"):
        read_all(path, schema="parts2")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_json_arrays_are_read_in_slices(tmp_path, name, size):
    records = [{"id": str(n), "text": "ä]," * (n % 5) + "[{" * n} for n in range(12)]
    records[7]["text"] = "x" * 600_000  # longer than a block
    data = json.dumps(records, indent=1, ensure_ascii=False).encode()
    path = tmp_path / name
    compressed(path, data)
    documents = read_all(path, size=size)
    assert [(d.id, d.turns[0].parts[0].text) for d in documents] == [(r["id"], r["text"]) for r in records]
    if not name.endswith("gz"):
        path.write_bytes(data[:-1000])
        *kept, problem = read_all(path, size=size)
        assert [d.id for d in kept] == [str(n) for n in range(7)]
        assert problem.kind == "unreadable file"
