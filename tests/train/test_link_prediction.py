"""The link prediction stage: what it writes, that it learns, what it refuses."""

import json

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.eval.link_prediction import KnownTails, with_inverses
from anyglot.tokenizers.quantizers.anchors import AnchorTokens
from anyglot.train import link_prediction as stage

TOKENS = {"type": "tokens", "tokens": {"anchors": 6, "nearest": 2, "relations": 4}, "width": 8, "hidden": [16]}


def write_graph(folder, prefix="", seed=0):
    """A random tree of 36 with the relations `child` and `grandchild`; a third of the latter is held out."""
    random = np.random.default_rng(seed)
    parent = {child: int(random.integers(max(0, child - 8), child)) for child in range(1, 36)}
    lines = {"train": [f"{prefix}{child}\tchild\t{prefix}{above}" for child, above in parent.items()]}
    older = [f"{prefix}{child}\tgrandchild\t{prefix}{parent[above]}" for child, above in parent.items() if above]
    lines["valid"], lines["test"] = older[::6], older[3::6]
    lines["train"] += [line for line in older if line not in lines["valid"] + lines["test"]]
    folder.mkdir()
    for split, found in lines.items():
        (folder / f"{split}.txt").write_text("\n".join(found) + "\n")
    return folder


@pytest.fixture
def config(tmp_path):
    folder = write_graph(tmp_path / "graph")
    return {
        "out": str(tmp_path / "out"),
        "graph": {"folder": str(folder)},
        "entities": TOKENS,
        "width": 16,
        "steps": 40,
    }


def test_a_run_writes_model_vocabulary_figures_and_log(config, tmp_path, capsys):
    stage.run(config, "test")
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["heldout"]) == {"mrr", "hits@1", "hits@3", "hits@10"}
    assert metrics["unseen"] == {}
    assert metrics["codes"]["entities"] == 36
    assert metrics["codes"]["collisions"] >= 0
    assert 0 < metrics["entity_parameters"] < metrics["parameters"]
    assert AnchorTokens.load(out / "tokens.json").places == 8
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert lines[-1]["loss"] < lines[0]["loss"]
    shown = capsys.readouterr().out
    assert "36 entities have" in shown
    assert "by chance" in shown
    assert "for example '0': near: " in shown
    before = (out / "model.safetensors").stat().st_mtime_ns
    stage.run(config, "test")  # finished: left as it is
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(MismatchError, match="another 'steps'"):
        stage.run({**config, "steps": 41}, "test")


def test_what_was_written_scores_as_what_was_trained(config, tmp_path):
    from safetensors.torch import load_file

    stage.run(config, "test")
    made = typed(stage.LinkPredictionConfig, config)
    split, _ = stage.load(made.graph)
    model = stage.LinkPredictor(made, split.graph, "test").eval()
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    figures, _ = stage.rank(model, split, "test")
    assert figures == json.loads((tmp_path / "out" / "metrics.json").read_text())["heldout"]


def test_a_model_that_cannot_be_written_whole_leaves_no_file(config, tmp_path, monkeypatch):
    def fails(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="no space"):
        stage.run({**config, "steps": 2}, "test")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("entities", [{"type": "table"}, TOKENS, {"type": "earl", "reserved": 4, "nearest": 2}])
@pytest.mark.parametrize("scorer", ["distmult", "rotate"])
def test_every_encoder_learns_with_every_scorer(config, entities, scorer):
    changed = {**config, "entities": entities, "scorer": scorer, "steps": 100, "lr": 0.02, "dropout": 0.0}
    made = typed(stage.LinkPredictionConfig, changed)
    split, _ = stage.load(made.graph)
    figures, chance = stage.rank(stage.train(made, split), split, "train")
    assert figures["mrr"] > 2 * chance["mrr"]


def test_two_runs_are_one(config):
    made = typed(stage.LinkPredictionConfig, {**config, "steps": 5})
    split, _ = stage.load(made.graph)
    first, second = (stage.train(made, split).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_drawn_negatives_are_a_part_of_all(config):
    """With every entity drawn the loss is that against all; what is known to be true is never a negative."""
    made = typed(stage.LinkPredictionConfig, {**config, "dropout": 0.0})
    split, _ = stage.load(made.graph)
    torch.manual_seed(0)
    model = stage.LinkPredictor(made, split.graph, "test").eval()
    vectors = model.encoder(*model.encoder.read(split.graph))
    known = KnownTails(split.triples["train"], 2)
    batch = with_inverses(split.triples["train"], 2)[::3]
    against_all = stage.contrast(model, vectors, batch, None, known)
    everyone = torch.arange(len(vectors)).flip(0)
    torch.testing.assert_close(stage.contrast(model, vectors, batch, everyone, known), against_all)
    expected = []
    true = {tuple(triple) for triple in with_inverses(split.triples["train"], 2).tolist()}
    for head, relation, tail in batch.tolist():
        scores = model(vectors, torch.tensor([head]), torch.tensor([relation]))[0]
        kept = [entity for entity in range(len(vectors)) if entity == tail or (head, relation, entity) not in true]
        expected.append(scores[kept].logsumexp(0) - scores[tail])
    torch.testing.assert_close(against_all, torch.stack(expected).mean())
    some = stage.contrast(model, vectors, batch[:4], torch.tensor([0, 1]), known)
    assert some < stage.contrast(model, vectors, batch[:4], None, known)


def test_an_unseen_graph_is_read_from_its_training_triples_alone(config, tmp_path):
    unseen = write_graph(tmp_path / "unseen", prefix="other ", seed=1)
    made = typed(
        stage.LinkPredictionConfig,
        {**config, "graph": {**config["graph"], "unseen": str(unseen)}, "entities": {"type": "earl", "reserved": 4}},
    )
    split, other = stage.load(made.graph)
    assert other.graph.relations == split.graph.relations
    assert len(other.graph.triples) == len((unseen / "train.txt").read_text().splitlines())
    model = stage.train(made, split)
    measured = stage.measure(model, made, split, other)
    assert measured.unseen["mrr"] > 1.5 * measured.chance["unseen"]["mrr"]
    (unseen / "valid.txt").write_text((unseen / "test.txt").read_text())  # held-out triples change no vector
    again = stage.load(made.graph)[1]
    assert all(
        torch.equal(a, b) for a, b in zip(model.encoder.read(other.graph), model.encoder.read(again.graph), strict=True)
    )
    with pytest.raises(AnyglotError, match="36 of its entities are in"):
        stage.load(stage.GraphConfig(config["graph"]["folder"], config["graph"]["folder"]))


def test_strangers_among_held_out_triples_are_refused(config, tmp_path):
    file = tmp_path / "graph" / "test.txt"
    file.write_text(file.read_text() + "1\tchild\tnobody\n")
    with pytest.raises(AnyglotError, match=r"test.txt: 'nobody' is not among"):
        stage.run(config, "test")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scorer": "transh"}, "scorer 'transh' is unknown; valid: distmult, rotate"),
        ({"split": "train"}, "split 'train' is unknown"),
        ({"width": 7}, "width must be even"),
        ({"dropout": 1.0}, "dropout must lie"),
        ({"negatives": -1}, "negatives at least 0"),
        ({"entities": {"type": "tokens", "wdth": 3}}, "test: entities: unknown key 'wdth'; did you mean 'width'"),
    ],
)
def test_configs_that_cannot_work_are_refused(config, changes, said):
    with pytest.raises(ConfigError, match=said):
        stage.run({**config, **changes}, "test")


def test_a_diverged_run_says_so(config):
    made = typed(stage.LinkPredictionConfig, {**config, "lr": 1e30})
    split, _ = stage.load(made.graph)
    with pytest.raises(AnyglotError, match=r"the loss became .* lower lr"):
        stage.train(made, split)
