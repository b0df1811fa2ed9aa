"""The MovieLens corpus: what is written, who sees what, and one's own atomic files."""

import json

import pytest
from safetensors.torch import load_file

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import movielens
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError, ConfigError

ITEMS = "item_id:token\ttitle:token_seq\tkind:token\n" + "".join(f"{n}\tThing {n}\tk{n % 2}\n" for n in range(12))
CHOICES = [(user, (user + step) % 12, step) for user in range(6) for step in range(8)]
INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in CHOICES)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.item").write_text(ITEMS)
    (tmp_path / "a.inter").write_text(INTER)
    return [f"inter={tmp_path / 'a.inter'}", f"item={tmp_path / 'a.item'}", 'text="{title}, {kind}"']


def build(out, *overrides):
    movielens.run(load_mapping("corpora/movielens", ["corpus=null", *overrides]), out, "corpora/movielens")


def documents(path):
    found = [document for part in slices(path) for document in read(part)]
    assert not any(isinstance(document, Problem) for document in found)
    return found


def test_own_files_become_documents_with_the_last_two_items_held_out(files, tmp_path):
    build(tmp_path / "out", *files, "window=4", "step=2", "heldout_one_in=3", "collaborative=2", "titles=2")
    items = documents(tmp_path / "out" / "items.jsonl")
    assert len(items) == 12
    heldout = {item.id for item in items if item.split == "heldout"}
    assert 0 < len(heldout) < 12
    assert json.loads(items[3].turns[0].parts[1].data) == {"id": "3", "text": "Thing 3, k1"}
    histories = documents(tmp_path / "out" / "histories.jsonl")

    def ids(document):
        contents = [part.data.decode() for part in document.turns[0].parts]
        named = [json.loads(content) if content.startswith("{") else {"id": content} for content in contents]
        assert all(("text" in one) == (one["id"] in heldout) for one in named)
        return [one["id"] for one in named]

    of_user = {str(user): [str(item) for u, item, _ in CHOICES if u == user] for user in range(6)}
    for document in histories:
        whole = of_user[document.id.split(":")[0]]
        parts = document.turns[0].parts
        if document.split == "train":
            assert len(parts) <= 4
            assert set(ids(document)) <= set(whole[:-2])
        else:
            assert ids(document) == (whole[:-1] if document.split == "valid" else whole)
            assert [part.loss for part in parts] == [False] * (len(parts) - 1) + [None]
    assert sum(document.split == "test" for document in histories) == 6
    for task in documents(tmp_path / "out" / "tasks.jsonl"):
        assert [part.type for part in task.turns[0].parts] in (["text", "item"], ["item", "text"])
        assert task.turns[0].parts[0].loss is False
        user, colon, rest = task.id.partition(":")
        if colon:  # titles of a history and its next item: of what training may see
            told, wanted = task.turns[0].parts
            seen, stop = of_user[user][:-2], int(rest.split("#")[0])
            assert told.text.split("\n") == [f"Thing {n}, k{int(n) % 2}" for n in seen[stop - 2 : stop]]
            content = wanted.data.decode()
            assert (json.loads(content)["id"] if content.startswith("{") else content) == seen[stop]
    assert load_file(tmp_path / "out" / "collaborative.safetensors")["vectors"].shape == (12 - len(heldout), 2)


def test_a_finished_folder_is_made_anew_when_its_files_change(files, tmp_path):
    record = tmp_path / "out" / "movielens.json"
    build(tmp_path / "out", *files, "collaborative=2")
    before = record.stat().st_mtime_ns
    build(tmp_path / "out", *files, "collaborative=2")
    assert record.stat().st_mtime_ns == before
    (tmp_path / "a.inter").write_text(INTER + "5\t4\t99\n6\t1\t1\n6\t2\t2\n6\t3\t3\n")
    build(tmp_path / "out", *files, "collaborative=2")
    assert json.loads(record.read_text("utf-8"))["counts"]["users"] == 7


def test_what_is_wrong_with_files_is_said(files, tmp_path):
    for change, message in [
        (ITEMS + "3\tagain\tk1\n", "item id '3' in row 13"),
        (ITEMS + "99\t\t\n", "item '99' has no text"),
        (ITEMS.replace("5\tThing 5\tk1\n", ""), "item '5' is not in the catalogue"),
    ]:
        (tmp_path / "a.item").write_text(change)
        with pytest.raises(AnyglotError, match=message):
            build(tmp_path / "out", *files, "collaborative=2")
    with pytest.raises(ConfigError, match="'plot'"):
        build(tmp_path / "out", *files[:2], 'text="{plot}"')
    with pytest.raises(ConfigError, match="no attribute 'plot'"):
        build(tmp_path / "out", *files[:2], 'text="{title.plot}"')
    with pytest.raises(AnyglotError, match="absent.inter: cannot be read"):
        build(tmp_path / "out", f"inter={tmp_path / 'absent.inter'}", *files[1:])
    with pytest.raises(ConfigError, match="name both files"):
        build(tmp_path / "out", files[0])


def test_the_films_are_all_there(tmp_path):
    if not assets.cached("recbole"):
        pytest.skip("recbole's wheel is not on this machine; `anyglot fetch movielens` downloads it")
    build(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "movielens.json").read_text("utf-8"))
    assert record["counts"]["users"] == 943
    assert record["counts"]["items.jsonl"] == 1682
    items = documents(tmp_path / "out" / "items.jsonl")
    assert items[0].turns[0].parts[0].text == "Toy Story (1995). Genres: Animation Children's Comedy"
    assert 60 < sum(item.split == "heldout" for item in items) < 110
    histories = documents(tmp_path / "out" / "histories.jsonl")
    assert sum(len(document.turns[0].parts) for document in histories if document.split == "test") == 100000
    before = (tmp_path / "out" / "items.jsonl").stat().st_mtime_ns
    build(tmp_path / "out")
    assert (tmp_path / "out" / "items.jsonl").stat().st_mtime_ns == before
