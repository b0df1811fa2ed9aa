"""Classifiers of a graph's nodes, trained on all nodes at once: of features with and without edges, and of codes alone.

Classes of validation nodes decide when to stop, those of test nodes are seen by `accuracy` only.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.networks.gnn import GNN, GNNConfig
from anyglot.tokenizers.networks.sparse import drop_features
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import NodeGraph, NodeSplit
from anyglot.train.log import TrainingLog

EVALUATE_EVERY = 5  # steps
LOG_EVERY = 20


@dataclass
class FitConfig:
    """steps: at most; it stops when validation accuracy has not risen for `patience` of them. The best step counts."""

    steps: int = 200
    patience: int = 100
    lr: float = 0.01
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if min(self.steps, self.patience) < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError("steps and patience must be at least 1, lr above 0, weight_decay at least 0")


def fit(
    model: nn.Module,
    loss: Callable[[], dict[str, Tensor]],
    predict: Callable[[], Tensor],
    labels: Tensor,
    split: NodeSplit,
    config: FitConfig,
    log: TrainingLog | None = None,
) -> None:
    """Train by Adam on what `loss` returns, summed; leaves the step with the best validation accuracy, evaluating.

    predict: logits [nodes, classes], called in evaluation mode without gradients. Of equally accurate steps the one
    with the lower validation loss counts.
    """
    optimizer = torch.optim.Adam(model.parameters(), config.lr, weight_decay=config.weight_decay)
    best, best_step, state = (-1.0, 0.0), 0, copy.deepcopy(model.state_dict())
    for step in range(1, config.steps + 1):
        model.train()
        losses = loss()
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            raise AnyglotError(f"the loss became {float(total.detach())} at step {step}; lower lr and run again")
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if log is not None:
            log.advance(step, config.steps, f"loss {float(total.detach()):.4g}" if log.watched else "")
        if step % EVALUATE_EVERY and step != config.steps:
            continue
        model.eval()
        with torch.no_grad():
            logits = predict()
        reached = accuracy(logits, labels, split.valid)
        found = (reached, -float(F.cross_entropy(logits[split.valid], labels[split.valid])))
        if log is not None and (step % LOG_EVERY == 0 or step == config.steps):
            terms = {name: float(value.detach()) for name, value in losses.items()}
            log.scalars(step, config.steps, {"loss": float(total.detach()), **terms, "valid_accuracy": reached})
        if found > best:
            best, best_step, state = found, step, copy.deepcopy(model.state_dict())
        if step - best_step >= config.patience:
            break
    model.load_state_dict(state)
    model.eval()


def accuracy(logits: Tensor, labels: Tensor, nodes: Tensor) -> float:
    """Share of `nodes` whose class has the highest of the logits [nodes, classes]."""
    return float((logits[nodes].argmax(1) == labels[nodes]).double().mean())


@dataclass
class CodeClassifierConfig:
    """hidden: widths of the hidden layers. width: of the embedding of a code. dropout: of what each layer reads.
    taught: weight of the coder's own class probabilities as targets for all nodes, beside the known classes."""

    hidden: list[int] = field(default_factory=lambda: [64])
    width: int = 16
    dropout: float = 0.3
    taught: float = 1.0
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_mlp(self.hidden, self.dropout)
        if self.width < 1 or self.taught < 0:
            raise ConfigError("width must be at least 1, taught at least 0")


def check_mlp(hidden: Sequence[int], dropout: float) -> None:
    """Raise ConfigError for hidden layers and dropout that cannot work."""
    if not hidden or min(hidden) < 1 or not 0 <= dropout < 1:
        raise ConfigError("hidden: one width or more, each at least 1; dropout must lie in [0, 1)")


class DropoutMLP(nn.Module):
    """Linear layers of widths [in, hidden ..., out], dropout before each and ReLU between them; reads sparse rows."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(drop_features(x if index == 0 else F.relu(x), self.dropout, self.training))
        return x


class CodeClassifier(nn.Module):
    """Classes from codes alone: every code of every level has an embedding, an MLP reads them side by side."""

    def __init__(self, codes: NodeCodes, classes: int, config: CodeClassifierConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(codes.levels), config.width)
        self.mlp = DropoutMLP([len(codes.levels) * config.width, *config.hidden, classes], config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [nodes, classes] of `NodeCodes.tokens` [nodes, levels]."""
        return self.mlp(self.embedding(tokens).flatten(1))


def classify_codes(
    codes: NodeCodes, labels: Tensor, split: NodeSplit, config: CodeClassifierConfig, teacher: Tensor, seed: int
) -> tuple[CodeClassifier, Tensor]:
    """A classifier that sees codes only, trained; and its logits [nodes, classes].

    It learns the classes of training nodes, and what a teacher that knows no more classes says of all nodes: logits
    [nodes, classes].
    """
    torch.manual_seed(seed)
    tokens, probable = codes.tokens.to(labels.device), teacher.softmax(1)
    model = CodeClassifier(codes, teacher.shape[1], config).to(labels.device)

    def loss() -> dict[str, Tensor]:
        logits = model(tokens)
        told = F.kl_div(logits.log_softmax(1), probable, reduction="batchmean")
        return {
            "known": F.cross_entropy(logits[split.train], labels[split.train]),
            "taught": config.taught * told,
        }

    fit(model, loss, lambda: model(tokens), labels, split, config.fit)
    with torch.no_grad():
        return model, model(tokens)


def classify_features(graph: NodeGraph, split: NodeSplit, hidden: int, config: FitConfig, seed: int) -> Tensor:
    """Logits [nodes, classes] of an MLP with one hidden layer that sees features only, trained."""
    torch.manual_seed(seed)
    model = DropoutMLP([graph.x.shape[1], hidden, int(graph.labels.max()) + 1], 0.5).to(graph.x.device)
    return _trained(model, lambda: model(graph.features), graph.labels, split, config)


def classify_graph(graph: NodeGraph, split: NodeSplit, network: GNNConfig, config: FitConfig, seed: int) -> Tensor:
    """Logits [nodes, classes] of a graph network that sees features and edges, trained."""
    torch.manual_seed(seed)
    model = GNN(network, graph.x.shape[1], int(graph.labels.max()) + 1).to(graph.x.device)
    x = (
        graph.features if network.type in ("gcn", "gat", "appnp") else graph.x
    )  # the others sum features of neighbours first
    return _trained(model, lambda: model(x, graph.edge_index), graph.labels, split, config)


def _trained(
    model: nn.Module, logits: Callable[[], Tensor], labels: Tensor, split: NodeSplit, config: FitConfig
) -> Tensor:
    def loss() -> dict[str, Tensor]:
        return {"classes": F.cross_entropy(logits()[split.train], labels[split.train])}

    fit(model, loss, logits, labels, split, config)
    with torch.no_grad():
        return logits()
