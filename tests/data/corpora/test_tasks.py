from anyglot.data.corpora import names, tasks
from anyglot.data.documents import files_below
from anyglot.data.records import parse_record

NAMES = [names.read(stem) for stem in ("black_cat", "church", "lab_coat", "sailboat")]
MODALITIES = ("text", "image", "speech")
WANTED = {
    "draw": (["text"], "image"),
    "say": (["text"], "speech"),
    "see": (["image", "text"], "text"),
    "hear": (["speech", "text"], "text"),
}


def test_aligned_documents_have_a_part_of_every_modality():
    for name, document in zip(NAMES, tasks.aligned(NAMES), strict=True):
        assert document["id"] == name.stem
        assert [part["type"] for part in document["parts"]] == list(MODALITIES)


def test_no_shuffled_picture_is_the_names_own_and_none_is_lost():
    pairs = [[part.get("text") or part["path"] for part in item["parts"]] for item in tasks.shuffled(NAMES)]
    assert [text for text, _ in pairs] == [name.text for name in NAMES]
    assert sorted(path for _, path in pairs) == sorted(f"images/{name.stem}.png" for name in NAMES)
    assert all(path != f"images/{name.stem}.png" for name, (_, path) in zip(NAMES, pairs, strict=True))


def test_chats_are_documents_whose_answer_is_the_wanted_part(tmp_path):
    items = list(tasks.chats(NAMES))
    assert len({item["id"] for item in items}) == len(items) == 4 * len(NAMES)
    for item in items:
        document = parse_record(item, files_below(tmp_path), "here")
        user, assistant = document.turns
        stem, kind = item["id"].split("#")
        assert (user.role, assistant.role) == ("user", "assistant")
        asked_with, answered_with = WANTED[kind]
        assert [part.type for part in user.parts] == asked_with
        assert [part.type for part in assistant.parts] == [answered_with]
        words = " ".join(part.text or "" for part in user.parts)
        assert (stem.replace("_", " ") in words) == (answered_with != "text")  # no question gives its answer away
        assert all(stem in str(part.path) for part in [*user.parts, *assistant.parts] if part.path)


def test_what_is_rejected_is_another_name_s(tmp_path):
    items = list(tasks.preferences(NAMES))
    assert len({item["id"] for item in items}) == len(items) == 2 * len(NAMES)
    for item in items:
        document = parse_record(item, files_below(tmp_path), "here")
        assert document.turns[0] == document.rejected[0]
        stem, kind = item["id"].split("#")
        chosen, rejected = (turns[1].parts[0] for turns in (document.turns, document.rejected))
        assert chosen.type == rejected.type == WANTED[kind][1]
        assert chosen.path.stem == stem != rejected.path.stem
        assert rejected.path.stem in {name.stem for name in NAMES}
    assert not list(tasks.preferences(NAMES[:1]))
