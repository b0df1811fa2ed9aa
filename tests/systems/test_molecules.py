"""Mole-BERT, on real molecules."""

import json

import pytest

from anyglot import assets
from anyglot.config import load_mapping, typed
from anyglot.data.corpora import molecules
from anyglot.errors import AnyglotError, ConfigError
from anyglot.systems import about
from anyglot.train.atom_codes import AtomCodesConfig, MoleculeData, guessed, load, measure, perplexity, run, train

pytest.importorskip("rdkit", reason="rdkit is not installed: anyglot[graph]")
pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Real molecules: a share of what `anyglot fetch molecules` writes."""
    if not assets.cached("chemicals"):
        pytest.skip("the wheel of chemicals is not cached; `anyglot fetch molecules` downloads it")
    folder = tmp_path_factory.mktemp("molecules")
    rows = assets.open_member(molecules.ASSET, molecules.TABLE).decode().splitlines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(molecules.assets, "open_member", lambda asset, member: "\n".join(rows[::20]).encode())
        molecules.run({"heldout_one_in": 5}, folder, "corpora/molecules")
    return folder / "molecules.jsonl"


def recipe(corpus, *overrides):
    mapping = load_mapping("systems/mole-bert", [f"data.files=[{corpus}]", *overrides])
    about(mapping, "mole-bert")
    mapping.pop("system")
    return mapping


def test_mole_bert(corpus):
    """Codes of atoms in context against elements; an encoder that guessed them against one that guessed elements."""
    found = measure(train(typed(AtomCodesConfig, recipe(corpus), "mole-bert"), "mole-bert"), 1.0)
    assert found.leaks == 0
    assert found.codes > 4 * found.elements
    assert found.environment_by_code > 2 * found.environment_by_element
    assert found.probe_counts > found.probe_element_counts + 0.03
    assert found.probe > found.probe_untrained


def test_a_run_writes_its_figures(corpus, tmp_path):
    small = ["coder_steps=3", "steps=3", "data.most=60", f"out={tmp_path / 'run'}"]
    run(recipe(corpus, *small), "mole-bert")
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "coder.safetensors", "encoder.safetensors", "metrics.json", "log.jsonl", "done.json"
    }  # fmt: skip
    run(recipe(corpus, *small), "mole-bert")  # finished
    with pytest.raises(AnyglotError, match="another 'steps'"):
        run(recipe(corpus, *small, "steps=4"), "mole-bert")
    with pytest.raises(ConfigError, match="no molecule of split 'train'"):
        run(recipe(corpus, *small, "elements=[U]", f"out={tmp_path / 'other'}"), "mole-bert")
    with pytest.raises(ConfigError, match="no such element among C, Xy"):
        run(recipe(corpus, *small, "elements=[C, Xy]", f"out={tmp_path / 'other'}"), "mole-bert")
    for quantizer in ({"type": "vq", "size": 64}, {"type": "grouped", "sizes": [8, 8, 8]}):
        with pytest.raises(ConfigError, match="must be 'grouped' with four sizes"):
            run({**recipe(corpus, *small, f"out={tmp_path / 'other'}"), "quantizer": quantizer}, "mole-bert")
    with pytest.raises(ConfigError, match="smaller one first"):
        run(recipe(corpus, "masks=[0.3, 0.15]"), "mole-bert")


def test_all_molecules_are_loaded_whatever_the_first_is(tmp_path):
    documents = [{"id": s, "split": "train", "parts": [{"type": "graph", "content": s}]} for s in ("CCl", "C1C", "CC")]
    (tmp_path / "three.jsonl").write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    data = MoleculeData([str(tmp_path / "three.jsonl")])
    assert [molecule.symbols for molecule in load(data, "train", [6])] == [["C", "C"]]


def test_figures_by_hand():
    import numpy as np

    assert perplexity(np.array([1, 1, 2, 2])) == pytest.approx(2)
    names = [[np.array([0, 0, 0, 1])], [np.array([0, 1, 2])]]
    around = [[["a", "a", "b", "c"]], [["a", "b", "a"]]]
    assert guessed(names, around) == pytest.approx(1 / 3)  # right, wrong, and a name never seen
