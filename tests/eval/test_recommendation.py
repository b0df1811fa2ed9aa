"""Recommendation figures against obvious twins, and on a tiny model: items, not IDs, are counted."""

import json

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.eval import recommendation
from anyglot.eval.recommendation import NOWHERE, Ranks, RecommendationEval, ranks_of_scores
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers import item as item_module
from anyglot.tokenizers.item import Item, ItemConfig, ItemTokenizer
from anyglot.tokenizers.text import TextTokenizer

COUNT = 30


def embed_one(text, tokens):
    return torch.nn.functional.normalize(torch.randn(384, generator=torch.Generator().manual_seed(int(text))), dim=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A checkpoint directory of an untrained model, whose tokenizer knows all items but the last two."""
    return make_bundle(tmp_path_factory.mktemp("bundle"), COUNT - 2)


def make_bundle(folder, known, **fields):
    """A checkpoint whose tokenizer knows so many items; without a treatment of collisions, all by the same ID."""
    quantizer = {"type": "rvq", "levels": 2, "size": 8}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_module, "embed", lambda texts, tokens: torch.stack([embed_one(t, tokens) for t in texts]))
        tokenizer = ItemTokenizer(typed(ItemConfig, {"widths": [], "quantizer": quantizer, **fields})).eval()
        tokenizer.begin([Item(str(n), str(n)) for n in range(known)])
        tokenizer.finish()
    if tokenizer.config.collisions == "none":
        tokenizer.table.zero_()
    tokenizer.save_pretrained(folder / "tokenizers" / "item")
    text = TextTokenizer.train(["black cat", "green apple", "old house on a hill", "a red kite"] * 20, size=290)
    text.save_pretrained(folder / "tokenizers" / "text")
    vocabulary = Vocabulary.build(text.size, text.fingerprint, [(tokenizer.spec, tokenizer.fingerprint)])
    model = build_model(ModelConfig(hidden=32, layers=1, heads=2, max_length=128), vocabulary.size)
    model.config.anyglot_vocabulary = vocabulary.fingerprint
    model.save_pretrained(folder)
    vocabulary.save(folder)
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Documents of all items, and of histories: of five users, who have seen much, and of one with a single item."""
    monkeypatch.setattr(item_module, "embed_one", embed_one)

    def part(item):
        content = str(item) if item < COUNT - 2 else json.dumps({"id": str(item), "text": str(item)})
        return {"type": "item", "content": content}

    items = [
        {"id": str(n), "parts": [{"type": "item", "content": f'{{"id": "{n}", "text": "{n}"}}'}]} for n in range(COUNT)
    ]
    order = [np.random.default_rng(user).permutation(COUNT).tolist() for user in range(5)]
    asked = [{"id": str(u), "split": "test", "parts": [part(i) for i in line[:24]]} for u, line in enumerate(order)]
    asked.append({"id": "short", "split": "valid", "parts": [part(3)]})
    for name, documents in (("items", items), ("histories", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    return tmp_path


def mapping_for(bundle, files, **fields):
    paths = {"catalogue": [str(files / "items.jsonl")], "documents": [str(files / "histories.jsonl")]}
    return {"kind": "recommendation", "out": str(files / "out"), "checkpoint": str(bundle), **paths, **fields}


def test_a_model_is_asked_about_every_history_and_writes_no_invalid_id(bundle, files):
    found = recommendation.run(mapping_for(bundle, files, beams=30, batch=2), "test")
    assert found["users"] == 5
    assert found["items"] == COUNT  # the new ones are in
    assert found["invalid_ids"] == 0
    assert found["recall@20"] == 1.0  # seven items are left when 23 are seen, and all of them are found
    assert json.loads((files / "out" / "metrics.json").read_text("utf-8")) == found
    among_all = recommendation.run(mapping_for(bundle, files, beams=30, exclude_seen=False), "test")
    assert among_all["recall@5"] <= found["recall@5"]
    assert recommendation.run(mapping_for(bundle, files, beams=30, recent=3, users=2), "test")["users"] == 2


def test_a_model_whose_items_share_one_id_scores_what_chance_does(tmp_path, files):
    bundle = make_bundle(tmp_path / "collapsed", COUNT, collisions="none")
    found = recommendation.run(mapping_for(bundle, files, beams=30), "test")
    assert found["recall@5"] == pytest.approx(5 / 7)  # seven items are left when 23 are seen
    assert found["ndcg@5"] == pytest.approx((1 / np.log2(np.arange(2, 7))).sum() / 7)


def test_a_catalogue_of_other_items_is_refused_and_a_repeated_one_is_taken_once(bundle, files):
    twice = [str(files / "items.jsonl")] * 2
    assert recommendation.run(mapping_for(bundle, files, beams=30, catalogue=twice), "test")["items"] == COUNT
    other = {"type": "item", "content": json.dumps({"id": "3", "text": "9"})}
    (files / "other.jsonl").write_text(json.dumps({"id": "3", "parts": [other]}) + "\n")
    with pytest.raises(MediaError, match="'3' has another text in the catalogue"):
        recommendation.run(mapping_for(bundle, files, beams=30, catalogue=[str(files / "other.jsonl")]), "test")


def test_an_item_that_can_only_be_missed_is_named(bundle, files):
    parts = [{"type": "item", "content": content} for content in ("1", json.dumps({"id": "99", "text": "99"}))]
    asked = {"id": "u", "split": "test", "parts": parts}
    (files / "unknown.jsonl").write_text(json.dumps(asked) + "\n")
    with pytest.raises(AnyglotError, match="'99' is asked for, but no document of `catalogue`"):
        recommendation.run(mapping_for(bundle, files, beams=30, documents=[str(files / "unknown.jsonl")]), "test")


def test_histories_that_cannot_be_asked_about_are_named(bundle, files):
    with pytest.raises(AnyglotError, match="a history needs an item before"):
        recommendation.run(mapping_for(bundle, files, split="valid"), "test")
    with pytest.raises(AnyglotError, match="no history of split 'late'"):
        recommendation.run(mapping_for(bundle, files, split="late"), "test")


def test_ndcg_is_scikit_learn_s_and_the_first_place_counts_one():
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    scores = np.random.default_rng(0).standard_normal((6, 30))
    targets = np.random.default_rng(1).integers(30, size=6)
    relevance = np.zeros((6, 30))
    relevance[np.arange(6), targets] = 1
    ranks = ranks_of_scores(scores, targets, [np.array([], dtype=int)] * 6)
    figures = ranks.figures([5, 10, 20])
    for k in (5, 10, 20):
        assert figures[f"ndcg@{k}"] == pytest.approx(ndcg_score(relevance, scores, k=k))
        top = np.argsort(-scores, axis=1)[:, :k]
        assert figures[f"recall@{k}"] == np.mean([t in row for t, row in zip(targets, top, strict=True)])
    first = Ranks(np.array([0]), np.array([1])).figures([5])
    assert first == {"recall@5": 1.0, "ndcg@5": 1.0}
    assert Ranks(np.array([1]), np.array([1])).figures([5])["ndcg@5"] == pytest.approx(0.6309, abs=1e-4)
    assert Ranks(np.array([NOWHERE]), np.array([1])).figures([5]) == {"recall@5": 0.0, "ndcg@5": 0.0}


def test_those_that_tie_are_counted_at_their_expected_rank():
    generator = np.random.default_rng(0)
    scores = generator.integers(4, size=(5, 40)).astype(float)  # many ties
    targets = generator.integers(40, size=5)
    seen = [np.setdiff1d(generator.integers(40, size=8), targets) for _ in range(5)]
    exact = ranks_of_scores(scores, targets, seen).figures([10])
    drawn = []
    for _ in range(3000):
        noisy = scores + 1e-3 * generator.random(scores.shape)
        drawn.append(ranks_of_scores(noisy, targets, seen).figures([10]))
    for name, value in exact.items():
        assert value == pytest.approx(np.mean([figures[name] for figures in drawn]), abs=0.02)


def test_one_id_for_all_items_is_no_better_than_chance():
    items, users = 200, 50
    ranks = Ranks(np.zeros(users, dtype=int), np.full(users, items))  # every item shares the first place
    figures = ranks.figures([10])
    assert figures["recall@10"] == pytest.approx(10 / items)
    assert figures["ndcg@10"] == pytest.approx((1 / np.log2(np.arange(2, 12))).sum() / items)


def test_seen_items_are_no_candidates_and_scores_are_left_alone():
    scores = np.array([[3.0, 2.0, 1.0]])
    ranks = ranks_of_scores(scores, np.array([2]), [np.array([0])])
    assert (ranks.before.tolist(), ranks.tied.tolist()) == ([1], [1])
    assert scores.tolist() == [[3.0, 2.0, 1.0]]


def test_settings_that_cannot_work_are_refused():
    fields = {"kind": "recommendation", "out": "o", "checkpoint": "c", "catalogue": ["i"], "documents": ["h"]}
    with pytest.raises(ConfigError, match="beams 10 find too few"):
        RecommendationEval(**fields, beams=10)
    with pytest.raises(ConfigError, match="cutoffs, beams and batch"):
        RecommendationEval(**fields, cutoffs=[])
