"""Graphs of nodes and their codes: what is read, written and refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix

from anyglot.errors import AnyglotError, MismatchError
from anyglot.tokenizers.networks.sparse import drop_features, pack_features
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import UNKNOWN, NodeGraph, read_graph, split_nodes

# 0 - 1 - 2, given in one direction, twice and with a loop; 3 has no edge.
EDGES = torch.tensor([[0, 2, 0, 1], [1, 1, 1, 1]])
X = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 0]])


@pytest.fixture
def graph():
    return NodeGraph.make(X, EDGES, torch.tensor([0, 1, 1, UNKNOWN]), ["a", "b", "c", "d"], ["left", "right"])


def same(found, graph):
    assert all(torch.equal(getattr(found, name), getattr(graph, name)) for name in ("x", "edge_index", "labels"))
    return (found.names, found.classes) == (graph.names, graph.classes)


def npz(path, graph, **changes):
    """Two sparse matrices and labels, as citation graphs are published."""
    ones = np.ones(graph.edge_index.shape[1])
    matrices = {"adj": csr_matrix((ones, graph.edge_index.numpy()), (4, 4)), "attr": csr_matrix(graph.x.numpy())}
    arrays = {
        f"{name}_{part}": np.array(getattr(matrix, part))
        for name, matrix in matrices.items()
        for part in ("data", "indices", "indptr", "shape")
    }
    arrays |= {"labels": graph.labels.numpy(), "node_names": np.array(graph.names), "class_names": graph.classes}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


def test_edges_go_both_ways_once_without_loops(graph):
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.isolated.tolist() == [False, False, False, True]


def test_files_and_data_give_the_graph_back(graph, tmp_path):
    pytest.importorskip("torch_geometric", reason="needs anyglot[graph]")
    graph.save(tmp_path / "graph.safetensors")
    assert same(read_graph(tmp_path / "graph.safetensors"), graph)
    assert same(read_graph(npz(tmp_path / "graph.npz", graph)), graph)
    data = graph.to_data(codes=torch.zeros(4, 1))
    assert data.is_undirected()
    assert data.has_isolated_nodes()
    assert data.codes.shape == (4, 1)
    found = NodeGraph.from_data(data)
    assert torch.equal(found.edge_index, graph.edge_index)
    assert torch.equal(found.labels, graph.labels)
    del data.x
    with pytest.raises(AnyglotError, match="needs `x` and `edge_index`"):
        NodeGraph.from_data(data)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"adj_data": None}, "needs the array 'adj_data'"),
        ({"labels": None}, "needs the array 'labels'"),
        ({"labels": np.array(["a", "b", "a", "b"])}, "labels must be integers"),
        ({"labels": np.full(4, np.nan)}, "labels must be integers"),
        ({"node_names": np.array("a")}, "1 names for 4 nodes"),
        ({"adj_shape": np.array(4)}, "not two sparse matrices"),
        ({"attr_data": np.array(["1", "2", "3"])}, "not two sparse matrices"),
        ({"labels": np.zeros(3, int)}, r"one integer class per node, \[4\], got \[3\]"),
        ({"adj_indices": np.array([1, 0, 2, 9])}, "not two sparse matrices"),
        ({"adj_shape": np.array([9, 9])}, "not two sparse matrices"),
        ({"attr_data": np.array([1.0, np.nan, 3.0])}, "finite features"),
        ({"labels": np.array([{}] * 4, object)}, "not a readable .npz of plain arrays"),
    ],
)
def test_a_file_that_holds_no_graph_is_one_error(graph, tmp_path, changes, error):
    path = npz(tmp_path / "graph.npz", graph, **changes)
    with pytest.raises(AnyglotError, match=error) as raised:
        read_graph(path)
    assert str(path) in str(raised.value)


def test_a_damaged_archive_is_one_error(graph, tmp_path):
    path = npz(tmp_path / "graph.npz", graph)
    whole = path.read_bytes()
    place = whole.index(graph.x.numpy()[:1, 0].astype("<f4").tobytes())
    for damaged in (whole[: len(whole) // 2], whole[:8], whole[:place] + b"\xff" + whole[place + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(AnyglotError, match="graph.npz: not a readable .npz"):
            read_graph(path)


def test_missing_empty_and_foreign_files_are_named(tmp_path):
    with pytest.raises(AnyglotError, match=r"cora.npz: no such file; docs/node-codes.md says where to get"):
        read_graph(tmp_path / "cora.npz")
    for name in ("graph.npz", "graph.safetensors", "graph.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(AnyglotError, match=name):
            read_graph(tmp_path / name)
    save_file({"x": X}, tmp_path / "graph.safetensors")
    with pytest.raises(AnyglotError, match="needs the tensors x, edge_index and labels"):
        read_graph(tmp_path / "graph.safetensors")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"edge_index": torch.tensor([[0], [4]])}, "edges name nodes up to 4, there are 4"),
        ({"edge_index": torch.tensor([[0], [-1]])}, "edges name nodes"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, r"integers \[2, edges\]"),
        ({"x": torch.zeros(4, 0)}, "of some nodes"),
        ({"labels": torch.zeros(4)}, "one integer class per node"),
        ({"names": ["a"]}, "1 names for 4 nodes"),
    ],
)
def test_what_is_no_graph_is_refused(changes, error):
    with pytest.raises(AnyglotError, match=error):
        NodeGraph.make(**{"x": X, "edge_index": EDGES, **changes})


def test_splits_draw_of_every_class_and_never_share_a_node():
    labels = torch.tensor([0, 1, 2, UNKNOWN] * 10)
    split = split_nodes(labels, 3, 2, seed=0)
    assert torch.bincount(labels[split.train]).tolist() == [3, 3, 3]
    assert torch.bincount(labels[split.valid]).tolist() == [2, 2, 2]
    every = torch.cat([split.train, split.valid, split.test])
    assert torch.equal(every.sort().values, (labels >= 0).nonzero()[:, 0])
    assert not torch.equal(split.train, split_nodes(labels, 3, 2, seed=1).train)
    assert torch.equal(split.train, split_nodes(labels, 3, 2, seed=0).train)
    with pytest.raises(AnyglotError, match="class 0 has 10 nodes: too few"):
        split_nodes(labels, 8, 2, seed=0)
    with pytest.raises(AnyglotError, match="no node of known class"):
        split_nodes(torch.full((4,), UNKNOWN), 1, 1, seed=0)


def test_sparse_rows_read_as_dense_ones_do():
    torch.manual_seed(0)
    x = torch.rand(50, 40) * (torch.rand(50, 40) < 0.1)
    packed = pack_features(x)
    assert packed.layout == torch.sparse_csr
    assert pack_features(torch.rand(4, 4)).layout == torch.strided
    linear = torch.nn.Linear(40, 8)
    grads = []
    for rows in (x, packed):
        linear.zero_grad()
        linear(drop_features(rows, 0.5, training=False)).square().sum().backward()
        grads.append(linear.weight.grad.clone())
    torch.testing.assert_close(linear(packed), linear(x))
    torch.testing.assert_close(*grads)
    kept = drop_features(packed, 0.5, training=True).to_dense()
    assert set(torch.unique((kept / x)[x > 0]).tolist()) == {0.0, 2.0}
    assert (kept[x == 0] == 0).all()


def test_codes_come_back_and_tell_how_distinct_they_are(tmp_path):
    codes = NodeCodes(torch.tensor([[0, 2], [1, 0], [0, 2]]), (2, 3), ("a", "b", "c"), {"config": {"seed": 1}})
    codes.save(tmp_path / "codes")
    found = NodeCodes.load(tmp_path / "codes")
    assert torch.equal(found.codes, codes.codes)
    assert (found.levels, found.names, found.made) == (codes.levels, codes.names, codes.made)
    assert codes.tokens.tolist() == [[0, 4], [1, 2], [0, 4]]
    assert (codes.report().distinct, codes.report().collisions) == (2, 2)


def test_codes_that_are_none_are_refused(tmp_path):
    with pytest.raises(AnyglotError, match=r"expected codes \[nodes, 2\], got \[3, 1\]"):
        NodeCodes(torch.zeros(3, 1, dtype=torch.long), (2, 2))
    with pytest.raises(AnyglotError, match="must lie in codebooks"):
        NodeCodes(torch.tensor([[2]]), (2,))
    with pytest.raises(AnyglotError, match="no node codes here"):
        NodeCodes.load(tmp_path)
    NodeCodes(torch.tensor([[1]]), (2,)).save(tmp_path / "codes")
    described = json.loads((tmp_path / "codes" / "codes.json").read_text())
    for change, error in (
        ({"format": 9}, MismatchError),
        ({"levels": [1]}, AnyglotError),
        ({"names": None}, AnyglotError),
    ):
        (tmp_path / "codes" / "codes.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(error):
            NodeCodes.load(tmp_path / "codes")
    (tmp_path / "codes" / "codes.json").write_text("{")
    with pytest.raises(AnyglotError, match="damaged node codes"):
        NodeCodes.load(tmp_path / "codes")
