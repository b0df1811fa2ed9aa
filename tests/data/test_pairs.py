"""Preferences: what their records mean, how they become tokens, and that a pair's documents always share a row."""

import json
from pathlib import Path

import numpy as np
import pytest

from anyglot.data import tokenize
from anyglot.data.documents import DocumentError, files_below
from anyglot.data.mixture import Share
from anyglot.data.pairs import PairBatches, open_pairs, pair_pass, pair_plan
from anyglot.data.records import parse_record
from anyglot.data.shards import ShardInfo, TokenStore, write_shard
from anyglot.errors import AnyglotError
from anyglot.lm.grammar import Grammar, Span, Turn
from tests.data.fakes import load_fake, save_fakes, save_png, vocabulary

QUESTION = [{"role": "user", "content": "draw"}]
GOOD, BAD = ([{"role": "assistant", "content": word}] for word in ("good", "bad"))
LENGTH = 64


def parsed(record):
    """(role, text, whether it bears loss) of every part of both documents."""
    document = parse_record(record, files_below(Path("there")), "here:1")
    return [
        [(turn.role, part.text, turn.learned(part)) for turn in turns for part in turn.parts]
        for turns in (document.turns, document.rejected)
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
        {"prompt": "draw", "chosen": GOOD, "rejected": BAD},
        {"chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},
        {"prompt": "draw", "chosen": QUESTION + GOOD, "rejected": QUESTION + BAD, "messages": QUESTION + GOOD},
    ],
)
def test_the_usual_ways_to_write_a_preference_mean_the_same(record):
    assert parsed(record) == [
        [("user", "draw", False), ("assistant", "good", True)],
        [("user", "draw", False), ("assistant", "bad", True)],
    ]


def test_strings_and_parts_are_plain_documents_that_begin_alike():
    expected = [[(None, "a cat: ", False), (None, "good", True)], [(None, "a cat: ", False), (None, "bad", True)]]
    assert parsed({"prompt": "a cat: ", "chosen": "good", "rejected": "bad"}) == expected
    parts = [[{"type": "text", "text": word}] for word in ("a cat: ", "good", "bad")]
    assert parsed(dict(zip(("prompt", "chosen", "rejected"), parts, strict=True))) == expected
    assert parsed({"chosen": "good", "rejected": "bad"}) == [[(None, "good", True)], [(None, "bad", True)]]


def test_only_what_the_answers_do_not_share_bears_loss():
    earlier = [*QUESTION, {"role": "assistant", "content": "which?"}, {"role": "user", "content": "any"}]
    later = [{"role": "user", "content": "thanks"}, {"role": "assistant", "content": "gladly"}]
    chosen, rejected = parsed({"chosen": earlier + GOOD + later, "rejected": earlier + BAD})
    assert [learned for *_, learned in chosen] == [False, False, False, True, False, True]
    assert [learned for *_, learned in rejected] == [False, False, False, True]


def test_media_may_stand_in_their_own_column():
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    drawn = [{"role": "assistant", "content": [{"type": "image"}]}]
    record = {"images": ["a.png", "b.png", "c.png"], "prompt": asked, "chosen": drawn, "rejected": drawn + GOOD}
    document = parse_record(record, files_below(Path("there")), "here:1")
    files = [
        [part.path.name for turn in turns for part in turn.parts if part.path]
        for turns in (document.turns, document.rejected)
    ]
    assert files == [["a.png", "b.png"], ["a.png", "c.png"]]
    with pytest.raises(DocumentError, match=r"3 image placeholder\(s\) but 2"):
        parse_record(record | {"images": ["a.png", "b.png"]}, files_below(Path("there")), "here:1")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": QUESTION, "chosen": GOOD, "rejected": "bad"}, "of one kind"),
        ({"prompt": QUESTION, "chosen": GOOD, "rejected": GOOD}, "are the same"),
        ({"chosen": QUESTION + GOOD, "rejected": [{"role": "user", "content": "x"}, *BAD]}, "there is no 'prompt'"),
        ({"chosen": QUESTION + GOOD, "rejected": QUESTION}, "only the beginning"),
        ({"prompt": QUESTION, "chosen": [], "rejected": BAD}, "'chosen' must be"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "'prompt' must be"),
        ({"prompt": QUESTION, "chosen": GOOD, "rejected": [{"role": "robot", "content": "x"}]}, "robot"),
    ],
)
def test_what_is_no_preference_says_why(record, message):
    with pytest.raises(DocumentError, match=message):
        parsed(record)


def test_the_schema_can_be_named():
    with pytest.raises(DocumentError, match="a preference needs 'rejected'"):
        parse_record({"chosen": "a"}, files_below(Path()), "here", "preference")
    both = {"messages": QUESTION + GOOD, "chosen": QUESTION + GOOD, "rejected": QUESTION + BAD}
    assert not parse_record(both, files_below(Path()), "here", "messages").rejected


@pytest.fixture
def tokenized(tmp_path, monkeypatch):
    """Runs `tokenize` over records with the fake tokenizers; gives the store and the problems."""
    monkeypatch.setattr(tokenize, "load_tokenizer", load_fake)
    tokenize._encoder.cache_clear()
    shared = save_fakes(tmp_path / "tokenizers")
    for number in range(3):
        save_png(tmp_path / f"{number}.png", number)

    def run(records, **options):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        source = {"files": [str(tmp_path / "pairs.jsonl")], **options}
        limits = {"max_document": options.pop("max_document")} if "max_document" in options else {}
        source.pop("max_document", None)
        config = {"out": str(tmp_path / "out"), "workers": 1, **shared, **limits, "sources": {"pairs": source}}
        tokenize.run(config)
        lines = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
        return TokenStore(tmp_path / "out" / "pairs"), [json.loads(line)["reason"] for line in lines]

    return run


def drawn(index, chosen, rejected):
    answers = [
        [{"role": "assistant", "content": [{"type": "image", "path": path}]}] if path.endswith("png") else path
        for path in (chosen, rejected)
    ]
    return {"id": f"p{index}", "prompt": QUESTION, "chosen": answers[0], "rejected": answers[1]}


def test_pairs_become_two_documents_or_none(tokenized, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    records = [drawn(0, "0.png", "1.png"), drawn(1, "2.png", "broken.png"), drawn(2, "1.png", "2.png")]
    store, reasons = tokenized(records, on_bad_media="drop_part")
    assert store.names == ["p0#chosen", "p0#rejected", "p2#chosen", "p2#rejected"]
    assert any("broken.png" in reason for reason in reasons)
    grammar = Grammar(store.vocabulary)
    chosen, rejected = grammar.parse(store.ids(0)), grammar.parse(store.ids(1))
    assert chosen[0] == rejected[0]
    assert chosen[1].spans[0].modality == rejected[1].spans[0].modality == "image"
    assert chosen[1] != rejected[1]
    opener = int(np.flatnonzero(store.ids(0) == store.vocabulary.opener("image"))[0])
    assert not store.loss(0)[:opener].any()
    assert store.loss(0)[opener:-1].all()  # picture and end of turn; the eos of a chat is forced


def test_pairs_have_their_own_order_and_are_not_cut(tokenized):
    long = {"id": "long", "prompt": "a", "chosen": "word " * 40, "rejected": "short"}
    fine = {"id": "fine", "prompt": "a", "chosen": "b", "rejected": "c"}
    store, reasons = tokenized([long, fine], max_document=30)
    assert store.names == ["fine#chosen", "fine#rejected"]
    assert "is not cut" in reasons[0]
    with pytest.raises(AnyglotError, match="a preference has its own order"):
        tokenized([fine], orders=[["text"]])


def make_store(folder, number=40, seed=0):
    """Pairs of plain documents with a shared beginning, of all lengths; the last is longer than a row."""
    words, random = vocabulary(), np.random.default_rng(seed)
    grammar, made = Grammar(words), []
    sizes = [*random.integers(1, 20, number - 1).tolist(), LENGTH]
    for index, size in enumerate(sizes):
        asked = Span("text", random.integers(0, 270, 3), loss=False)
        for name, length in (("chosen", size), ("rejected", int(random.integers(1, 20)))):
            answer = [Span("text", random.integers(0, 270, length))]
            if index % 3 == 0:
                answer.append(Span("image", random.integers(0, 128, (2, 1, 1))))
            made.append((f"{index}#{name}", grammar.serialise([Turn(None, [asked, *answer])])))
    folder.mkdir(parents=True)
    words.save(folder)
    write_shard(folder / "000000.arrow", made, ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names)))
    return TokenStore(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("pairs") / "store")


def test_rows_hold_whole_pairs_side_by_side(store):
    plan = pair_plan(store, LENGTH)
    assert plan.dropped.tolist() == [78, 79]
    assert sorted(plan.documents.tolist()) == list(range(78))
    assert (plan.documents[1::2] == plan.documents[0::2] + 1).all()
    assert not (plan.offsets % 2).any()
    fill = np.add.reduceat(plan.stops - plan.starts, plan.offsets[:-1])
    assert (fill <= LENGTH).all()
    assert plan.padding < 0.2
    assert not np.array_equal(pair_plan(store, LENGTH, 1).documents, plan.documents)


def test_a_pair_weighs_one_and_knows_its_reference(store):
    reference = -np.arange(len(store), dtype=np.float64)
    pairs = 0
    for batch in pair_pass(store, reference, LENGTH, 3):
        for row in range(3):
            known = batch.documents[row][batch.documents[row] >= 0]
            assert batch.reference[row, : len(known)].tolist() == (-known).tolist()
            assert batch.document_ids[row].max() + 1 == len(known)
            for number, document in enumerate(known):
                places = batch.document_ids[row] == number
                assert batch.input_ids[row, places].tolist() == store.ids(document).tolist()
                assert (batch.weights[row, places] > 0).tolist() == [*store.loss(document)[1:], False]
            for number in range(0, len(known), 2):
                weights = batch.weights[row, np.isin(batch.document_ids[row], (number, number + 1))]
                assert weights.sum() == pytest.approx(1)
                assert len(set(weights.tolist()) - {0.0}) == 1
                pairs += 1
            assert not batch.weights[row, batch.document_ids[row] < 0].any()
    assert pairs == 39


def test_ranks_together_are_the_global_batch(store):
    mixture = open_pairs({"pairs": Share(str(store.directory), epochs=2)}, LENGTH, 0, store.vocabulary)
    batches = PairBatches(mixture, 4, reference=[-np.arange(len(store), dtype=np.float64)])
    assert batches.steps == -(-2 * mixture.plans[0].rows // 4)
    whole = batches.local(3)
    for world in (2, 3):
        parts = [batches.local(3, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate([part.input_ids for part in parts])[:4], whole.input_ids)
        values = [part.reference[part.documents >= 0] for part in parts]
        assert np.concatenate(values).tolist() == whole.reference[whole.documents >= 0].tolist()
    assert np.array_equal(next(batches.iterate(3)).reference, whole.reference)


def test_a_store_of_other_documents_is_refused(store, tmp_path):
    words = store.vocabulary
    info = ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names))
    document = Grammar(words).serialise([Turn(None, [Span("text", np.arange(5))])])
    for names in (["a#chosen", "b#rejected"], ["a#chosen"], ["a", "b"]):
        write_shard(tmp_path / "x" / "000000.arrow", [(name, document) for name in names], info)
        with pytest.raises(AnyglotError, match="no half of a preference"):
            pair_plan(TokenStore(tmp_path / "x", words), LENGTH)
    with pytest.raises(AnyglotError, match="no pair fits into rows of 8"):
        pair_plan(store, 8)
