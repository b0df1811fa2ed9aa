from types import SimpleNamespace

import pytest

from anyglot.data.documents import Part
from anyglot.inference.server import replies


@pytest.mark.parametrize(
    ("smiles", "labels"),
    [
        ("NCC(=O)[O-]", ["NH₂", "C", "C", "O", "O⁻"]),
        ("C[N+](C)(C)CCO", ["C", "N⁺", "C", "C", "C", "C", "OH"]),
        ("C", ["CH₄"]),
        ("[Ca+2]", ["Ca⁺⁺"]),
    ],
)
def test_atoms_are_labelled_as_formulas_write_them(smiles, labels):
    pytest.importorskip("rdkit", reason="pip install 'anyglot[graph]' to test molecules")
    from anyglot.tokenizers.molecules import read

    model = SimpleNamespace(tokenizers={"graph": None})
    graph = replies.content_part(model, Part("graph", data=read(smiles.encode()))).graph
    assert [node.label for node in graph.nodes] == labels
    assert all(0 <= edge.start < len(labels) and 0 <= edge.end < len(labels) for edge in graph.edges)
    assert len({(node.x, node.y) for node in graph.nodes}) == len(labels)
