"""Graphs whose nodes have features and classes: read, written, taken from and given to torch-geometric.

Files: `.npz` of two sparse matrices, as citation graphs are published (`adj_data`, `adj_indices`, `adj_indptr`,
`adj_shape`, the same with `attr_`, and `labels`), or `.safetensors` as `NodeGraph.save` writes it; never pickles.
"""

import functools
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError
from anyglot.files import atomic_path
from anyglot.tokenizers.networks.sparse import pack_features

UNKNOWN = -1  # the class of a node of which none is known
NPZ = ("data", "indices", "indptr", "shape")


@dataclass(frozen=True)
class NodeGraph:
    """x: features, fp32 [nodes, width]. edge_index: int64 [2, edges], each edge both ways, no loops, none twice.
    labels: int64 [nodes], UNKNOWN where there is none. names, classes: of nodes and classes, or empty.

    Make one with `make`, which brings edges into this form. A node without edges is allowed: whatever reads the graph
    knows of it only what its features say.
    """

    x: Tensor
    edge_index: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @functools.cached_property
    def features(self) -> Tensor:
        """`x`, in sparse rows where most of it is zero: what networks read first."""
        return pack_features(self.x)

    @property
    def isolated(self) -> Tensor:
        """Whether a node has no edge, bool [nodes]."""
        return torch.bincount(self.edge_index[0], minlength=len(self)) == 0

    @classmethod
    def make(
        cls,
        x: Tensor,
        edge_index: Tensor,
        labels: Tensor | None = None,
        names: Sequence[str] = (),
        classes: Sequence[str] = (),
        where: str = "graph",
    ) -> "NodeGraph":
        """A graph of edges in any order and direction. Raises AnyglotError, beginning with `where`, if it is none."""
        if x.ndim != 2 or 0 in x.shape or not bool(torch.isfinite(x).all()):
            raise AnyglotError(f"{where}: expected finite features [nodes, width] of some nodes, got {list(x.shape)}")
        nodes = len(x)
        if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.is_floating_point():
            raise AnyglotError(f"{where}: expected edges as integers [2, edges], got {list(edge_index.shape)}")
        if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < nodes:
            raise AnyglotError(f"{where}: edges name nodes up to {int(edge_index.max())}, there are {nodes}")
        labels = torch.full((nodes,), UNKNOWN) if labels is None else labels
        if labels.shape != (nodes,) or labels.is_floating_point():
            raise AnyglotError(f"{where}: expected one integer class per node, [{nodes}], got {list(labels.shape)}")
        if names and len(names) != nodes:
            raise AnyglotError(f"{where}: {len(names)} names for {nodes} nodes")
        source, target = edge_index.long()[:, edge_index[0] != edge_index[1]]
        both = torch.unique(torch.cat([source * nodes + target, target * nodes + source]))
        edges = torch.stack([both // nodes, both % nodes])
        return cls(x.float(), edges, labels.long(), tuple(names), tuple(classes))

    @classmethod
    def from_data(cls, data: Any, where: str = "data") -> "NodeGraph":
        """The graph of a torch-geometric `Data` with `x`, `edge_index` and perhaps `y`. Raises as `make`."""
        if data.x is None or data.edge_index is None:
            raise AnyglotError(f"{where}: a `Data` needs `x` and `edge_index`; it has: {', '.join(data.keys())}")
        labels = None if data.y is None else data.y.reshape(-1)
        return cls.make(data.x, data.edge_index, labels, where=where)

    def to_data(self, **more: Tensor) -> Any:
        """The graph as a torch-geometric `Data`; more: further tensors, e.g. `codes`."""
        from torch_geometric.data import Data

        return Data(x=self.x, edge_index=self.edge_index, y=self.labels, **more)

    def save(self, path: str | Path) -> None:
        """Write `.safetensors`, atomically."""
        from safetensors.torch import save_file

        tensors = {"x": self.x, "edge_index": self.edge_index, "labels": self.labels}
        with atomic_path(path) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                temporary,
                {"names": json.dumps(self.names), "classes": json.dumps(self.classes)},
            )


def read_graph(path: str | Path) -> NodeGraph:
    """Read a graph, `.npz` or `.safetensors`. Raises AnyglotError naming the file if it is missing or holds none."""
    path = Path(path)
    if not path.is_file():
        raise AnyglotError(f"{path}: no such file; docs/node-codes.md says where to get a graph, e.g. Cora")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise AnyglotError(f"{path}: a graph is a .npz or .safetensors file, see docs/node-codes.md")


def _read_npz(path: Path) -> NodeGraph:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # also a pickle inside
        raise AnyglotError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    wanted = [f"{matrix}_{part}" for matrix in ("adj", "attr") for part in NPZ]
    missing = [name for name in [*wanted, "labels"] if name not in found]
    if missing:
        raise AnyglotError(f"{path}: needs the array {missing[0]!r}; it has: {', '.join(sorted(found))}")
    if found["labels"].dtype.kind not in "iu":
        raise AnyglotError(f"{path}: labels must be integers, got {found['labels'].dtype}; number the classes")
    try:
        adjacency, features = (_sparse(found, matrix) for matrix in ("adj", "attr"))
        x = features.toarray().astype(np.float32)
    except (ValueError, TypeError, IndexError) as error:
        raise AnyglotError(f"{path}: not two sparse matrices in rows ({error})") from error
    edges = np.stack(adjacency.nonzero()).astype(np.int64)
    return NodeGraph.make(
        torch.from_numpy(x),
        torch.from_numpy(edges),
        torch.from_numpy(found["labels"].astype(np.int64)),
        [str(name) for name in np.atleast_1d(found.get("node_names", ()))],
        [str(name) for name in np.atleast_1d(found.get("class_names", ()))],
        str(path),
    )


def _sparse(found: dict[str, Any], matrix: str) -> Any:
    from scipy.sparse import csr_matrix

    data, indices, indptr, shape = (found[f"{matrix}_{part}"] for part in NPZ)
    made = csr_matrix((data, indices, indptr), shape=tuple(int(side) for side in shape))
    made.check_format(full_check=True)
    return made


def _read_safetensors(path: Path) -> NodeGraph:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            x, edges, labels = (file.get_tensor(name) for name in ("x", "edge_index", "labels"))
        names, classes = (json.loads(described.get(name, "[]")) for name in ("names", "classes"))
    except (SafetensorError, ValueError) as error:
        raise AnyglotError(f"{path}: needs the tensors x, edge_index and labels ({error})") from error
    return NodeGraph.make(x, edges, labels, names, classes, str(path))


@dataclass(frozen=True)
class NodeSplit:
    """Places of nodes, int64: those whose classes are learned from, those that decide when to stop, the rest."""

    train: Tensor
    valid: Tensor
    test: Tensor


def split_nodes(labels: Tensor, train: int, valid: int, seed: int) -> NodeSplit:
    """Draw `train` and `valid` nodes of every class, and leave the rest for the test (Yang et al., arXiv:2103.02885).

    Nodes of unknown class are in none. Raises AnyglotError for a class with no node left to test.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[Tensor]] = [[], [], []]
    for number in range(int(labels.max()) + 1):
        members = (labels == number).nonzero()[:, 0]
        if len(members) <= train + valid:
            raise AnyglotError(
                f"class {number} has {len(members)} nodes: too few for {train} to train, {valid} to stop"
            )
        members = members[torch.randperm(len(members), generator=generator)]
        for part, chosen in zip(drawn, members.tensor_split([train, train + valid]), strict=True):
            part.append(chosen)
    if not drawn[0]:
        raise AnyglotError("the graph has no node of known class")
    return NodeSplit(*(torch.cat(part).sort().values for part in drawn))
