"""Filtered ranks against a brute-force oracle on a real graph; ties, directions, figures."""

import pytest
import torch

from anyglot import assets
from anyglot.errors import AnyglotError
from anyglot.eval.link_prediction import KnownTails, chance, figures, filtered_ranks, with_inverses
from anyglot.tokenizers.knowledge_graph import index_triples

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def nations():
    """The Nations graph: triples of each split, and how many entities and relations there are."""
    if not assets.cached("pykeen"):
        pytest.skip("pykeen's wheel is not on this machine; `anyglot fetch graphs` downloads it")
    named = {
        split: [
            tuple(line.split("\t"))
            for line in assets.open_member("pykeen", f"pykeen/datasets/nations/{split}.txt").decode().splitlines()
        ]
        for split in SPLITS
    }
    every = [triple for triples in named.values() for triple in triples]
    entities = sorted({name for head, _, tail in every for name in (head, tail)})
    relations = sorted({relation for _, relation, _ in every})
    triples = {split: torch.from_numpy(index_triples(named[split], entities, relations, split)) for split in SPLITS}
    return triples, len(entities), len(relations)


def brute_force(table, triples, true, relations):
    """Ranks by sorting candidates one by one; table: scores [entities, relations with inverses, entities]."""
    ranks = {"tail": [], "head": []}
    for head, relation, tail in triples:
        for direction, scores, own in (
            ("tail", table[head][relation], tail),
            ("head", table[tail][relation + relations], head),
        ):
            rivals = []
            for entity, score in enumerate(scores):
                triple = (head, relation, entity) if direction == "tail" else (entity, relation, tail)
                if entity != own and triple not in true:
                    rivals.append(score)
            optimistic = 1 + sum(score > scores[own] for score in rivals)
            pessimistic = 1 + sum(score >= scores[own] for score in rivals)
            ranks[direction].append((optimistic + pessimistic) / 2)
    return ranks["tail"] + ranks["head"]


@pytest.mark.parametrize("rounding", [None, 0], ids=["no ties", "many ties"])
def test_ranks_are_those_of_a_brute_force_on_nations(nations, rounding):
    triples, entities, relations = nations
    table = torch.randn(entities, 2 * relations, entities, generator=torch.Generator().manual_seed(0))
    table = table if rounding is None else table.round()
    every = torch.cat(list(triples.values()))
    ranks = filtered_ranks(
        lambda heads, relation: table[heads, relation], triples["test"], KnownTails(every, relations), batch=37
    )
    true = {tuple(triple) for triple in every.tolist()}
    assert ranks.tolist() == brute_force(table.tolist(), triples["test"].tolist(), true, relations)
    if rounding == 0:
        assert (ranks % 1 == 0.5).any()


def test_a_constant_score_ranks_in_the_middle_and_filters_what_is_known(nations):
    triples, entities, relations = nations
    known = KnownTails(torch.cat(list(triples.values())), relations)

    def constant(heads, relation):
        return torch.zeros(len(heads), entities)

    ranks = filtered_ranks(constant, triples["test"], known)
    queries = with_inverses(triples["test"], relations)
    rows, _ = known.of(queries[:, 0], queries[:, 1])
    left = entities - torch.bincount(rows, minlength=len(queries)) + 1
    assert torch.equal(ranks, (left + 1) / 2)
    assert ranks.min() >= 1
    assert ranks.mean() < 0.75 * (entities + 1) / 2  # much is known of so dense a graph


def test_chance_is_the_mean_over_random_orders(nations):
    triples, entities, relations = nations
    known = KnownTails(torch.cat(list(triples.values())), relations)
    generator = torch.Generator().manual_seed(0)

    def random(heads, relation):
        return torch.rand(len(heads), entities, generator=generator)

    repeated = torch.cat([filtered_ranks(random, triples["test"], known) for _ in range(60)])
    expected = chance(triples["test"], known, entities)
    assert figures(repeated) == pytest.approx(expected, abs=0.01)
    assert expected["hits@10"] > expected["hits@3"] > expected["hits@1"] > 1 / entities


def test_known_tails_are_all_of_both_directions(nations):
    triples, _, relations = nations
    known = KnownTails(triples["train"], relations)
    queries = with_inverses(triples["train"], relations)
    true = {}
    for head, relation, tail in queries.tolist():
        true.setdefault((head, relation), set()).add(tail)
    asked = torch.tensor([*true, (0, 0), (13, 2 * relations - 1)])
    rows, tails = known.of(asked[:, 0], asked[:, 1])
    for place, query in enumerate(asked.tolist()):
        found = tails[rows == place].tolist()
        assert len(found) == len(set(found))
        assert set(found) == true.get(tuple(query), set())


def test_a_score_that_is_not_a_number_is_an_error(nations):
    triples, entities, relations = nations

    def broken(heads, relation):
        return torch.full((len(heads), entities), torch.nan)

    with pytest.raises(AnyglotError, match="score is NaN"):
        filtered_ranks(broken, triples["test"], KnownTails(triples["train"], relations))


def test_figures_of_ranks_by_hand():
    found = figures(torch.tensor([1.0, 2.0, 4.0, 10.0, 10.5], dtype=torch.float64))
    assert found == pytest.approx(
        {"mrr": (1 + 0.5 + 0.25 + 0.1 + 1 / 10.5) / 5, "hits@1": 0.2, "hits@3": 0.4, "hits@10": 0.8}
    )


@pytest.mark.slow
@pytest.mark.parametrize("rounding", [None, 0], ids=["no ties", "many ties"])
def test_figures_are_those_of_pykeen_s_evaluator_on_the_same_scores(nations, rounding):
    pytest.importorskip("pykeen", reason="needs anyglot[peers]")
    from pykeen.evaluation import RankBasedEvaluator

    triples, entities, relations = nations
    table = torch.randn(entities, 2 * relations, entities, generator=torch.Generator().manual_seed(0))
    table = table if rounding is None else table.round()
    every = torch.cat(list(triples.values()))
    known = KnownTails(every, relations)
    ours = figures(filtered_ranks(lambda heads, relation: table[heads, relation], triples["test"], known))
    evaluator = RankBasedEvaluator()
    head, relation, tail = triples["test"].unbind(1)
    for target, first, asked, true in (("tail", head, relation, tail), ("head", tail, relation + relations, head)):
        scores = table[first, asked]
        own = scores.gather(1, true[:, None])
        rows, found = known.of(first, asked)
        scores[rows, found] = torch.nan  # what is known does not compete
        scores.scatter_(1, true[:, None], own)
        evaluator.process_scores_(triples["test"], target, scores, own)
    theirs = evaluator.finalize()
    assert ours["mrr"] == pytest.approx(theirs.get_metric("both.realistic.inverse_harmonic_mean_rank"), rel=1e-6)
    for k in (1, 3, 10):
        assert ours[f"hits@{k}"] == pytest.approx(theirs.get_metric(f"both.realistic.hits_at_{k}"))
