"""The node codes stage: give every node of a graph a few discrete codes, and see what classifiers make of them.

It takes seconds to minutes, so an interrupted run starts again. Results in `out`: codes/ (see
`tokenizers.node_codes`), model.safetensors, student.safetensors (where one is taught), metrics.json, log.jsonl,
tensorboard/.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.config import to_mapping, typed
from anyglot.errors import ConfigError
from anyglot.files import atomic_path, write_json
from anyglot.tokenizers.networks import node_coders
from anyglot.tokenizers.networks.node_coders import NodeCoder, VQGraph
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import NodeGraph, NodeSplit, read_graph, split_nodes
from anyglot.tokenizers.quantizers.anchors import CodeReport
from anyglot.train.device import local_device
from anyglot.train.finished import is_finished
from anyglot.train.log import TrainingLog
from anyglot.train.node_classifiers import (
    CodeClassifierConfig,
    DropoutMLP,
    FitConfig,
    accuracy,
    check_mlp,
    classify_codes,
    fit,
)


@dataclass
class GraphConfig:
    """file: a graph, see `tokenizers.node_graph`. train, valid: nodes of each class that are learned from, and that
    decide when to stop; all others are the test. normalise: features of a node sum to 1."""

    file: str
    train: int = 20
    valid: int = 30
    normalise: bool = True

    def __post_init__(self) -> None:
        if min(self.train, self.valid) < 1:
            raise ConfigError("train and valid must be at least 1 node of each class")


@dataclass
class StudentConfig:
    """A network that sees features only, taught by a coder of one code. hidden, dropout: of its MLP.
    classes, codes: weights of the coder's class probabilities and of its soft code assignments as targets, beside the
    known classes. temperature: of the assignments, which are by cosine."""

    hidden: list[int] = field(default_factory=lambda: [256])
    dropout: float = 0.5
    classes: float = 1.0
    codes: float = 1.0
    temperature: float = 0.1
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_mlp(self.hidden, self.dropout)
        if min(self.classes, self.codes) < 0 or self.temperature <= 0:
            raise ConfigError("classes and codes must be at least 0, temperature above 0")


@dataclass
class NodeCodesConfig:
    """Configuration of the stage.

    out: the run's folder. coder: what makes the codes; type "vqgraph" or "nodeid", see
    `tokenizers.networks.node_coders`. fit: how it is trained. classifier: of codes alone. student: of "vqgraph".
    seed: of the split, of weights and of training.
    """

    out: str
    graph: GraphConfig
    coder: dict[str, Any]
    stage: str = "node_codes"
    fit: FitConfig = field(default_factory=FitConfig)
    classifier: CodeClassifierConfig = field(default_factory=CodeClassifierConfig)
    student: StudentConfig | None = None
    seed: int = 0


@dataclass
class Measured:
    """Accuracy on test nodes: coder, of the network that the codes come from, with features and edges; codes, of a
    classifier that sees codes only; student, of one that sees features only; majority, of the most frequent class.
    report: how well codes tell nodes apart. bits: of a node's code. isolated: nodes without edges."""

    coder: float
    codes: float
    student: float | None
    majority: float
    report: CodeReport
    bits: float
    isolated: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Trained:
    """A coder and all that was made with it. logits, code_logits, student_logits: fp32 [nodes, classes]."""

    coder: NodeCoder
    codes: NodeCodes
    logits: Tensor
    classifier: nn.Module
    code_logits: Tensor
    student: nn.Module | None
    student_logits: Tensor | None


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage.

    Args:
        mapping: the config's plain values, see NodeCodesConfig. where: its name in error messages.
    Raises:
        AnyglotError: a missing or unfit graph, a mistake in the config, or an `out` that holds other codes.
    """
    config = typed(NodeCodesConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "set of node codes"):
        return
    began = time.time()
    graph = load(config)
    split = split_nodes(graph.labels, config.graph.train, config.graph.valid, config.seed)
    with TrainingLog(out, f"node codes, {config.coder.get('type')}") as log:
        trained = train(config, graph, split, where, log)
    measured = measure(trained, graph, split)
    _save(trained.coder, out / "model.safetensors")
    if trained.student is not None:
        _save(trained.student, out / "student.safetensors")
    trained.codes.save(out / "codes")
    write_json(out / "metrics.json", measured.to_json())
    write_json(out / "done.json", {"config": to_mapping(config), "seconds": round(time.time() - began, 1)})
    print(summary(config, trained, measured))


def load(config: NodeCodesConfig) -> NodeGraph:
    """The graph, its features as the config wants them, on this process' device. Raises AnyglotError as `read_graph`.

    A node without any feature keeps zeros: its codes then come from its neighbours alone.
    """
    graph, device = read_graph(config.graph.file), local_device()
    x = graph.x / graph.x.abs().sum(1, keepdim=True).clamp(min=1e-12) if config.graph.normalise else graph.x
    return NodeGraph(x.to(device), graph.edge_index.to(device), graph.labels.to(device), graph.names, graph.classes)


def train(
    config: NodeCodesConfig, graph: NodeGraph, split: NodeSplit, where: str = "config", log: TrainingLog | None = None
) -> Trained:
    """Train the coder, then what reads its codes. All in evaluation mode in the end, on the graph's device."""
    torch.manual_seed(config.seed)
    classes = int(graph.labels.max()) + 1
    coder = node_coders.build(config.coder, graph.x.shape[1], classes, f"{where}: coder").to(graph.x.device)
    if config.student is not None and not isinstance(coder, VQGraph):
        raise ConfigError(f"{where}: student: is taught by a coder of type 'vqgraph', not {config.coder['type']!r}")

    def loss() -> dict[str, Tensor]:
        coded = coder(graph)
        return {"classes": F.cross_entropy(coded.logits[split.train], graph.labels[split.train]), **coded.losses}

    fit(coder, loss, lambda: coder(graph).logits, graph.labels, split, config.fit, log)
    with torch.no_grad():
        coded = coder(graph)
    made = {"config": to_mapping(config), "isolated": int(graph.isolated.sum())}
    codes = NodeCodes(coded.codes.cpu(), coder.levels, graph.names, made)
    classifier, code_logits = classify_codes(codes, graph.labels, split, config.classifier, coded.logits, config.seed)
    student, student_logits = None, None
    if config.student is not None and isinstance(coder, VQGraph):
        student, student_logits = teach(coder, graph, split, config.student, config.seed)
    return Trained(coder, codes, coded.logits, classifier, code_logits, student, student_logits)


class Student(nn.Module):
    """Classes, and a direction to be compared with codes, of features alone."""

    def __init__(self, config: StudentConfig, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.trunk, self.dropout = DropoutMLP([inputs, *config.hidden], config.dropout), config.dropout
        self.classify, self.direct = nn.Linear(config.hidden[-1], classes), nn.Linear(config.hidden[-1], width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [nodes, classes] and directions of unit length [nodes, width]."""
        h = F.dropout(F.relu(self.trunk(x)), self.dropout, self.training)
        return self.classify(h), F.normalize(self.direct(h), dim=1)


def teach(
    coder: VQGraph, graph: NodeGraph, split: NodeSplit, config: StudentConfig, seed: int
) -> tuple[Student, Tensor]:
    """Distil a coder into a network of features alone, by its class probabilities and its soft code assignments.

    Returns the student and its logits [nodes, classes]. Classes other than of training nodes are the coder's own.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        probable = coder(graph).logits.softmax(1)
    assigned, directions = coder.assignments(graph, config.temperature), coder.directions()
    student = Student(config, graph.x.shape[1], directions.shape[1], probable.shape[1]).to(graph.x.device)

    def loss() -> dict[str, Tensor]:
        logits, direction = student(graph.features)
        told = F.kl_div(logits.log_softmax(1), probable, reduction="batchmean")
        near = (direction @ directions.t() / config.temperature).log_softmax(1)
        return {
            "known": F.cross_entropy(logits[split.train], graph.labels[split.train]),
            "classes": config.classes * told,
            "codes": config.codes * F.kl_div(near, assigned, reduction="batchmean"),
        }

    def predict() -> Tensor:
        return student(graph.features)[0]

    fit(student, loss, predict, graph.labels, split, config.fit)
    with torch.no_grad():
        return student, predict()


def measure(trained: Trained, graph: NodeGraph, split: NodeSplit) -> Measured:
    """Figures on the test nodes; see `Measured`."""

    def correct(logits: Tensor) -> float:
        return accuracy(logits, graph.labels, split.test)

    counts = torch.bincount(graph.labels[split.test])
    return Measured(
        coder=correct(trained.logits),
        codes=correct(trained.code_logits),
        student=None if trained.student_logits is None else correct(trained.student_logits),
        majority=float(counts.max() / counts.sum()),
        report=trained.codes.report(),
        bits=float(torch.tensor(trained.codes.levels).double().log2().sum()),
        isolated=int(graph.isolated.sum()),
    )


def _save(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)


def summary(config: NodeCodesConfig, trained: Trained, measured: Measured) -> str:
    """A few lines for the terminal."""
    levels, report = trained.codes.levels, measured.report
    lines = [
        f"{config.out}: {report.entities} nodes, {len(levels)} codes each of {sum(levels)}, {measured.bits:.1f} bits; "
        f"{report.distinct} different ones, {report.entropy:.2f} bits in use",
        f"  test accuracy: {measured.coder:.1%} with features and edges, {measured.codes:.1%} by codes alone, "
        + ("" if measured.student is None else f"{measured.student:.1%} the student by features alone, ")
        + f"{measured.majority:.1%} the most frequent class",
    ]
    if measured.isolated:
        lines.append(f"  {measured.isolated} nodes have no edge: their codes come from their features alone")
    return "\n".join(lines)
