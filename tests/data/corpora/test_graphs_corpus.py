"""The graphs corpus: what is written, and that unseen entities are unseen."""

import json

import pytest

from anyglot import assets
from anyglot.data.corpora import graphs
from anyglot.errors import ConfigError
from anyglot.tokenizers.knowledge_graph import read_triples


def ends(triples):
    return {name for head, _, tail in triples for name in (head, tail)}


def test_a_cut_shares_relations_and_no_entity():
    lines = [f"entity {a}\trelation {(a * b) % 5}\tentity {b}" for a in range(30) for b in range(a)]
    seen, unseen = graphs.cut(lines, graphs.GraphsCorpus())
    triples = [[tuple(line.split("\t")) for split in part.values() for line in split] for part in (seen, unseen)]
    assert not ends(triples[0]) & ends(triples[1])
    assert {relation for _, relation, _ in triples[1]} <= {line.split("\t")[1] for line in seen["train"]}
    for part in (seen, unseen):
        assert all(part.values())
        known = {word for line in part["train"] for word in line.split("\t")}
        assert all(known.issuperset(line.split("\t")) for line in part["valid"] + part["test"])
        assert len({line for split in part.values() for line in split}) == sum(map(len, part.values()))


def test_configs_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="unseen_one_in must be at least 2"):
        graphs.run({"unseen_one_in": 1}, tmp_path, "test")


def test_the_real_graphs_are_whole(tmp_path, capsys):
    if not assets.cached("pykeen"):
        pytest.skip("pykeen's wheel is not on this machine; `anyglot fetch graphs` downloads it")
    graphs.run({}, tmp_path, "test")
    counts = {
        name: [len(read_triples(tmp_path / name / f"{split}.txt")) for split in graphs.SPLITS] for name in graphs.NAMES
    }
    assert counts == {"nations": [1592, 199, 201], "umls": [5216, 652, 661], "kinships": [8544, 1068, 1074]}
    seen, unseen = (
        [triple for split in graphs.SPLITS for triple in read_triples(tmp_path / name / f"{split}.txt")]
        for name in ("umls_seen", "umls_unseen")
    )
    assert not ends(seen) & ends(unseen)
    assert len(ends(seen)) + len(ends(unseen)) == 135
    written = json.loads((tmp_path / "graphs.json").read_text())
    assert written["counts"]["umls"]["train"] == 5216
    capsys.readouterr()
    graphs.run({}, tmp_path, "test")
    assert "finished before" in capsys.readouterr().err
