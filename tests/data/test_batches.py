import ast
import io
import itertools
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
from rich.console import Console

from anyglot.config import typed
from anyglot.data.batches import Batches, BatchesConfig, open_batches, single_pass
from anyglot.data.mixture import Mixture, Share
from anyglot.data.shards import ShardInfo, TokenStore, write_shard
from anyglot.errors import ConfigError, MismatchError
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.data.fakes import random_document, text_document, vocabulary

LENGTH = 64


def write_store(folder, documents, words):
    info = ShardInfo("job", words.fingerprint, {}, {}, list(words.modality_names))
    write_shard(folder / "000000.arrow", [(str(n), d) for n, d in enumerate(documents)], info)
    return TokenStore(folder, words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two stores: `mixed` of 60 documents and one long text, `text` of 200 short ones."""
    folder, words = tmp_path_factory.mktemp("stores"), vocabulary()
    grammar = Grammar(words)
    words.save(folder)
    write_store(
        folder / "mixed", [random_document(grammar, n) for n in range(60)] + [text_document(grammar, 150)], words
    )
    write_store(folder / "text", [text_document(grammar, 5 + n % 20, n) for n in range(200)], words)
    return folder


def make(folder, rows=6, **shares):
    shares = shares or {"mixed": Share(""), "text": Share("")}
    return Batches(
        Mixture({n: Share(str(folder / n), s.ratio, s.max_repetition) for n, s in shares.items()}, LENGTH), rows
    )


def equal(a, b):
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def texts(batch):
    """The token runs of a batch's documents, as bytes."""
    for row, documents in zip(batch.input_ids, batch.document_ids, strict=True):
        for document in range(documents.max() + 1):
            yield row[documents == document].astype(np.int32).tobytes()


def test_labels_positions_and_weights_are_those_of_each_document_alone(folder):
    store = TokenStore(folder / "mixed")
    words = store.vocabulary
    known = {document.ids.tobytes(): document for document in store if len(document.ids) <= LENGTH}
    found = 0
    for batch in single_pass(store, LENGTH, 4):
        for row in range(4):
            for number in range(batch.document_ids[row].max() + 1):
                places = np.flatnonzero(batch.document_ids[row] == number)
                assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))
                document = known.get(batch.input_ids[row, places].astype(np.int32).tobytes())
                if document is None:
                    continue  # a piece of the long one, checked below
                found += 1
                assert batch.position_ids[row, places].tolist() == list(range(len(places)))
                assert batch.labels[row, places].tolist() == [*document.ids[1:], -100]
                assert batch.weights[row, places].tolist() == [*document.loss[1:], 0]
                meant = words.describe(document.ids[1:]).modality
                assert batch.modalities[row, places].tolist() == [*meant, -1]
            padding = batch.document_ids[row] == -1
            assert (batch.input_ids[row, padding] == words.pad).all()
            assert (batch.labels[row, padding] == -100).all()
            assert not batch.weights[row, padding].any()
    assert found == len(known) == 60


def test_a_cut_document_loses_no_label(folder):
    store = TokenStore(folder / "mixed")
    long = store[60].ids
    labels = []
    for batch in single_pass(store, LENGTH, 4):
        columns = (batch.input_ids, batch.document_ids, batch.labels, batch.position_ids)
        for row, documents, targets, positions in zip(*columns, strict=True):
            for number in range(documents.max() + 1):
                assert positions[documents == number].tolist() == list(range((documents == number).sum()))
                ids = row[documents == number].astype(np.int32)
                at = long.tobytes().find(ids.tobytes())
                if len(ids) > 20 and at >= 0:
                    labels.append((at // 4, targets[documents == number]))
    joined = np.concatenate([found for _, found in sorted(labels, key=lambda pair: pair[0])])
    assert joined.tolist() == [*long[1:], -100]


def test_single_pass_sees_every_token_once_for_any_world(folder):
    store = TokenStore(folder / "mixed")
    whole = list(single_pass(store, LENGTH, 4))
    assert sum(batch.tokens for batch in whole) == store.tokens
    runs = sorted(itertools.chain.from_iterable(map(texts, whole)))
    for world in (2, 3):
        ranks = [list(single_pass(store, LENGTH, 4, rank, world)) for rank in range(world)]
        assert {batch.input_ids.shape for rank in ranks for batch in rank} == {(-(-4 // world), LENGTH)}
        assert sorted(run for rank in ranks for batch in rank for run in texts(batch)) == runs
    assert len(list(single_pass(store, LENGTH, 4, limit=2))) == 2


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_together_are_the_global_batch(folder, world):
    batches = make(folder)
    for k in (0, 5, 1000):
        whole = batches.local(k)
        ranks = [batches.local(k, rank, world) for rank in range(world)]
        assert {part.input_ids.shape for part in ranks} == {(-(-6 // world), LENGTH)}
        for field in fields(whole):
            rows = np.concatenate([getattr(part, field.name) for part in ranks])
            assert np.array_equal(rows[:6], getattr(whole, field.name))
        filled_up = np.concatenate([part.document_ids for part in ranks])[6:]
        assert (filled_up == -1).all()
    with pytest.raises(ConfigError, match="rank 4 is not one of 4"):
        batches.local(0, 4, 4)


def test_batch_k_is_a_pure_function_and_resume_is_one_integer(folder):
    first, again = make(folder), make(folder)
    assert first.fingerprint == again.fingerprint != make(folder, rows=5).fingerprint
    run = list(itertools.islice(first.iterate(), 12))
    assert all(equal(batch, again.local(k)) for k, batch in reversed(list(enumerate(run))))
    resumed = itertools.islice(again.iterate(7), 5)
    assert all(equal(a, b) for a, b in zip(run[7:], resumed, strict=True))
    assert not equal(run[0], run[1])


def test_no_document_is_lost_or_repeated_when_the_world_changes_midway(folder):
    batches = make(folder, rows=6, mixed=Share(""))
    epoch = batches.mixture.plans[0].rows
    steps = -(-epoch // 6)
    before = [batches.local(k, rank, 2) for k in range(steps // 2) for rank in range(2)]
    after = [batches.local(k, rank, 3) for k in range(steps // 2, steps) for rank in range(3)]
    rows = [row for batch in before + after for row in zip(batch.input_ids, batch.document_ids, strict=True)][:epoch]
    tokens = np.concatenate([ids[documents >= 0] for ids, documents in rows])
    assert np.array_equal(
        np.bincount(tokens, minlength=batches.mixture.vocabulary.size), TokenStore(folder / "mixed").unigram()
    )


def test_each_epoch_has_every_row_once_in_a_new_order(folder):
    mixture = make(folder, mixed=Share("")).mixture
    epoch = mixture.plans[0].rows
    orders = [[mixture.row(e * epoch + i)[1] for i in range(epoch)] for e in range(3)]
    assert all(sorted(order) == list(range(epoch)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_ratios_are_shares_of_tokens(folder):
    for ratio in (1.0, 3.0):
        batches = make(folder, mixed=Share("", ratio), text=Share("", 1.0))
        tokens = [0, 0]
        for index in range(1200):
            source, row = batches.mixture.row(index)
            plan = batches.mixture.plans[source]
            where = slice(plan.offsets[row], plan.offsets[row + 1])
            tokens[source] += int((plan.stops[where] - plan.starts[where]).sum())
        assert tokens[0] / tokens[1] == pytest.approx(ratio, rel=0.02)


def test_impossible_mixtures_are_refused_by_name(folder):
    mixture = make(folder, mixed=Share("", 0.9, max_repetition=2), text=Share("", 0.1)).mixture
    rows = mixture.plans[0].rows
    mixture.require(rows)
    with pytest.raises(ConfigError, match=r"source 'mixed' has .* tokens, but .* max_repetition is 2"):
        mixture.require(4 * rows)
    once = make(folder, mixed=Share("", max_repetition=1), text=Share("", max_repetition=1)).mixture
    total = sum(plan.rows for plan in once.plans)
    once.require(total)
    with pytest.raises(ConfigError, match="max_repetition is 1"):
        once.require(total + total // 10)
    with pytest.raises(ConfigError, match="'text' has no ratio"):
        make(folder, mixed=Share("", 1.0), text=Share(""))
    with pytest.raises(ConfigError, match="'text': ratio, epochs and max_repetition must not be negative"):
        make(folder, text=Share("", -1.0))
    with pytest.raises(ConfigError, match="at least one source"):
        Mixture({}, LENGTH)


def test_epochs_say_how_often_each_source_is_seen_and_when_the_run_ends(folder):
    shares = {"mixed": Share(str(folder / "mixed"), epochs=3), "text": Share(str(folder / "text"), epochs=0.5)}
    mixture = Mixture(shares, LENGTH)
    batches = Batches(mixture, 4)
    rows = [mixture.plans[0].rows, mixture.plans[1].rows]
    assert mixture.rows == round(3 * rows[0] + rows[1] / 2)
    assert batches.steps == -(-mixture.rows // 4)
    seen = [mixture.row(index) for index in range(mixture.rows)]
    times = [np.bincount([row for s, row in seen if s == source], minlength=rows[source]) for source in (0, 1)]
    assert abs(times[0].sum() - 3 * rows[0]) <= 1
    assert abs(times[1].sum() - rows[1] / 2) <= 1
    assert set(times[0].tolist()) <= {2, 3, 4}
    assert set(times[1].tolist()) <= {0, 1}
    assert make(folder).steps == 0
    for wrong, message in (
        ({"mixed": Share("", epochs=1), "text": Share("")}, "'text' has no epochs"),
        ({"text": Share("", 1.0, epochs=1)}, "ratio and epochs both"),
    ):
        with pytest.raises(ConfigError, match=message):
            Mixture(wrong, LENGTH)


def test_another_vocabulary_is_refused(folder, tmp_path):
    other = Vocabulary.build(270, "text-2")
    write_store(tmp_path / "other", [text_document(Grammar(other), 9)], other)
    other.save(tmp_path)
    shares = {"mixed": Share(str(folder / "mixed")), "other": Share(str(tmp_path / "other"))}
    with pytest.raises(MismatchError, match=other.fingerprint):
        Mixture(shares, LENGTH)
    config = typed(BatchesConfig, {"stores": {"mixed": {"path": str(folder / "mixed")}}, "length": LENGTH})
    with pytest.raises(MismatchError, match=other.fingerprint):
        open_batches(config, other)


def test_stores_from_before_and_after_an_extension_mix(folder, tmp_path):
    extended = vocabulary().extend(CodeSpec("depth", (9,), (Axis("row", "sized", 9),)), "d")
    document = Grammar(extended).serialise([Turn(None, [Span("depth", np.arange(5)[:, None])])])
    write_store(tmp_path / "depth", [document] * 9, extended)
    extended.save(tmp_path)
    shares = {"text": Share(str(folder / "text")), "depth": Share(str(tmp_path / "depth"))}
    mixture = Mixture(shares, LENGTH)
    assert mixture.vocabulary.fingerprint == extended.fingerprint
    modalities = {int(m) for k in range(9) for m in np.unique(Batches(mixture, 6).local(k).modalities)}
    assert extended.modality_names.index("depth") in modalities


def test_the_tree_says_what_is_in_it(folder):
    console = Console(width=300, file=io.StringIO())
    mixture = make(folder, mixed=Share("", 3.0), text=Share("", 1.0)).mixture
    console.print(mixture.tree(rows=1000))
    text = console.file.getvalue()
    for expected in ("mixed: 75.0 % of tokens", "text: 25.0 % of tokens", "padding", "seen", "image:", "speech:"):
        assert expected in text


def test_configs_are_checked():
    with pytest.raises(ConfigError, match="length must be at least 1"):
        typed(BatchesConfig, {"stores": {}, "length": 0})
    with pytest.raises(ConfigError, match="rations"):
        typed(BatchesConfig, {"stores": {"a": {"path": "x", "rations": 1}}})


def test_reading_ahead_is_bounded(folder):
    made = []

    class Counting(Batches):
        def local(self, k, rank=0, world=1):
            made.append(k)
            return super().local(k, rank, world)

    batches = Counting(make(folder).mixture, 2, prefetch=3)
    iterator = batches.iterate()
    for _ in range(5):
        next(iterator)
    time.sleep(0.5)
    assert 5 <= len(made) <= 5 + 3 + 2
    assert made == list(range(len(made)))


def test_data_modules_import_neither_torch_nor_transformers():
    code = "import sys, anyglot.data.batches, anyglot.data.tokenize; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'anyglot'" in loaded
    assert not {"torch", "transformers", "deepspeed", "grain"} & set(ast.literal_eval(loaded))
