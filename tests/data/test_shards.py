import numpy as np
import pytest

from anyglot.data.shards import ShardInfo, TokenStore, run_lengths, write_shard
from anyglot.errors import AnyglotError, MismatchError
from anyglot.lm.grammar import Grammar
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.data.fakes import random_document, vocabulary


@pytest.fixture
def made(tmp_path):
    """A store of 3 shards (the middle one empty), and the documents that it must hold."""
    words = vocabulary()
    documents = [random_document(Grammar(words), seed) for seed in range(20)]
    words.save(tmp_path)
    for number, part in enumerate((documents[:12], [], documents[12:])):
        info = ShardInfo("job", words.fingerprint, {}, {"file": "here"}, list(words.modality_names))
        write_shard(tmp_path / f"{number:06d}.arrow", [(f"d{n}", d) for n, d in enumerate(part)], info)
    return TokenStore(tmp_path), documents


def test_every_document_comes_back(made):
    store, documents = made
    assert len(store) == len(documents)
    assert store.lengths.tolist() == [len(d.ids) for d in documents]
    assert store.tokens == sum(len(d.ids) for d in documents)
    for stored, document in zip(store, documents, strict=True):
        assert np.array_equal(stored.ids, document.ids)
        assert np.array_equal(stored.loss, document.loss)
        assert stored.spans == document.spans
    assert store.name(13) == "d1"
    with pytest.raises(IndexError):
        store[20]


def test_reading_copies_no_tokens(made):
    store, _ = made
    assert np.shares_memory(store[3].ids, store._shards[0].all_ids)
    assert not store[3].ids.flags.writeable


def test_statistics(made):
    store, documents = made
    everything = np.concatenate([d.ids for d in documents])
    assert np.array_equal(store.unigram(), np.bincount(everything, minlength=store.vocabulary.size))
    blocks = store.unigram_by_block()
    assert sum(counts.sum() for counts in blocks.values()) == len(everything)
    assert len(blocks["image.0"]) == 128
    for name, counts in store.statistics().items():
        spans = [[span for span in d.spans if span.modality == name] for d in documents]
        assert counts["tokens"] == sum(span.length for found in spans for span in found)
        assert counts["documents"] == sum(bool(found) for found in spans)
        assert counts["spans"] == sum(map(len, spans))
    media = [[(s.start, s.length) for s in d.spans if s.modality != "text"] for d in documents]
    assert [store.media_spans(i) for i in range(len(store))] == media


def test_run_lengths():
    for flags in ([], [0], [1], [1, 1, 0, 0, 0, 1], [0, 1, 0]):
        runs = run_lengths(np.array(flags, dtype=bool))
        assert np.repeat(np.arange(len(runs)) % 2, runs).tolist() == flags


def test_another_vocabulary_is_refused_by_name(made):
    store, _ = made
    other = Vocabulary.build(270, "text-2")
    with pytest.raises(MismatchError, match=f"{store.vocabulary.fingerprint}.*{other.fingerprint}"):
        TokenStore(store.directory, other)


def test_a_store_is_also_one_of_an_extended_vocabulary(made):
    store, documents = made
    extended = store.vocabulary.extend(CodeSpec("depth", (9,), (Axis("row", "sized", 99),)), "d")
    again = TokenStore(store.directory, extended)
    assert [document.spans for document in again] == [document.spans for document in documents]
    assert len(again.unigram()) == extended.size
    assert again.statistics() == store.statistics() | {"depth": {"tokens": 0, "spans": 0, "documents": 0}}
    with pytest.raises(MismatchError, match=store.vocabulary.fingerprint):
        TokenStore(store.directory, store.vocabulary.first(1))  # of less than the store's own


def test_damage_is_one_line_with_the_file_name(made, tmp_path):
    store, _ = made
    path = store.directory / "000000.arrow"
    data = path.read_bytes()
    for broken in (data[:-200], data[: len(data) // 2], b"", b"not arrow at all"):
        path.write_bytes(broken)
        with pytest.raises(AnyglotError, match="000000.arrow: damaged") as caught:
            TokenStore(store.directory)
        assert "\n" not in str(caught.value)
    with pytest.raises(AnyglotError, match="no token shards here"):
        TokenStore(tmp_path / "nowhere")


def test_verify_finds_an_altered_token(made):
    store, documents = made
    store.verify()
    path = store.directory / "000000.arrow"
    data = path.read_bytes()
    at = data.index(documents[5].ids.tobytes())
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(AnyglotError, match="000000.arrow: its content was altered"):
        TokenStore(store.directory).verify()
