"""The link prediction stage: learn which triples of a knowledge graph are true, and rank held-out ones.

It takes seconds to minutes, so an interrupted run starts again. Results in `out`: model.safetensors, tokens.json (the
vocabulary, of encoders that have one), metrics.json, log.jsonl, tensorboard/.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.link_prediction import KnownTails, chance, figures, filtered_ranks, with_inverses
from anyglot.files import atomic_path, write_json
from anyglot.tokenizers.knowledge_graph import KnowledgeGraph, index_triples, read_triples
from anyglot.tokenizers.networks import entity_encoders
from anyglot.tokenizers.networks.entity_encoders import TokenEncoder
from anyglot.tokenizers.networks.triple_scorers import SCORERS
from anyglot.tokenizers.quantizers.anchors import CodeReport, report
from anyglot.train.device import local_device
from anyglot.train.finished import is_finished
from anyglot.train.log import TrainingLog
from anyglot.train.schedule import ScheduleConfig, factor

LOG_EVERY = 20  # steps


@dataclass
class GraphConfig:
    """folder: has train.txt, valid.txt and test.txt, lines `head TAB relation TAB tail`. unseen: a second such folder,
    of other entities and the same relations: what was learned is tried there, where train.txt is all that is known."""

    folder: str
    unseen: str = ""


@dataclass
class LinkPredictionConfig:
    """Configuration of the stage.

    out: the run's folder. entities: how they get their vectors; type "table", "tokens" or "earl", see
    `tokenizers.networks.entity_encoders`. scorer: "distmult" or "rotate". width: of the vectors.
    negatives: entities that a true one is told from at each step, drawn anew; 0: all. dropout: of queries.
    split: "valid" or "test", which is ranked in the end.
    """

    out: str
    graph: GraphConfig
    entities: dict[str, Any]
    stage: str = "link_prediction"
    scorer: str = "distmult"
    width: int = 64
    steps: int = 600
    batch_size: int = 512
    negatives: int = 0
    dropout: float = 0.2
    lr: float = 5e-3
    weight_decay: float = 0.0
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(kind="cosine", warmup=20, final=0.05))
    split: str = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise ConfigError(f"scorer {self.scorer!r} is unknown; valid: {', '.join(SCORERS)}")
        if self.split not in ("valid", "test"):
            raise ConfigError(f"split {self.split!r} is unknown; valid: valid, test")
        if self.width < 2 or self.width % 2 or min(self.steps, self.batch_size) < 1 or self.negatives < 0:
            raise ConfigError("width must be even; width, steps and batch_size at least 1, negatives at least 0")
        if not 0 <= self.dropout < 1 or self.weight_decay < 0 or self.lr <= 0:
            raise ConfigError("dropout must lie in [0, 1), weight_decay be at least 0, lr above 0")


@dataclass(frozen=True)
class Split:
    """A graph of training triples, and the triples of each file, int64 [n, 3]."""

    graph: KnowledgeGraph
    triples: dict[str, Tensor]

    def known(self) -> KnownTails:
        """What is true according to any file."""
        return KnownTails(torch.cat(list(self.triples.values())), len(self.graph.relations))


@dataclass
class Measured:
    """heldout: figures on the graph that was trained on; unseen: on that of unseen entities, if there is one.
    chance: what the same triples get from a random order of entities. parameters: of the model; entity_parameters: of
    the part that makes vectors of entities. codes: None of an encoder without tokens."""

    heldout: dict[str, float]
    unseen: dict[str, float]
    chance: dict[str, dict[str, float]]
    parameters: int
    entity_parameters: int
    codes: CodeReport | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LinkPredictor(nn.Module):
    """An encoder of entities and a scorer of triples over one set of relations (inverses included)."""

    def __init__(self, config: LinkPredictionConfig, graph: KnowledgeGraph, where: str) -> None:
        super().__init__()
        self.encoder = entity_encoders.build(config.entities, graph, config.width, f"{where}: entities")
        self.scorer = SCORERS[config.scorer](2 * len(graph.relations), config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Tensor, heads: Tensor, relations: Tensor, tails: Tensor | None = None) -> Tensor:
        """Scores [n, tails] of entities (all, if none are named) as the tails of queries [n]."""
        query = self.dropout(self.scorer.query(vectors[heads], relations))
        return self.scorer.score(query, vectors if tails is None else vectors[tails])


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage.

    Args:
        mapping: the config's plain values, see LinkPredictionConfig. where: its name in error messages.
    Raises:
        AnyglotError: a missing or unfit graph, a mistake in the config, or an `out` that holds another model.
    """
    from safetensors.torch import save_file

    config = typed(LinkPredictionConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "model"):
        return
    began = time.time()
    split, unseen = load(config.graph)
    with TrainingLog(out, f"link prediction, {config.entities.get('type')}") as log:
        model = train(config, split, where, log)
    measured = measure(model, config, split, unseen)
    with atomic_path(out / "model.safetensors") as path:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    if isinstance(model.encoder, TokenEncoder):
        model.encoder.tokens.save(out / "tokens.json")
    write_json(out / "metrics.json", measured.to_json())
    write_json(out / "done.json", {"config": to_mapping(config), "seconds": round(time.time() - began, 1)})
    print(summary(config, measured))
    if isinstance(model.encoder, TokenEncoder):
        code = model.encoder.tokens.encode(split.graph)[0]
        print(f"  for example {split.graph.entities[0]!r}: {'; '.join(model.encoder.tokens.describe(code))}")


def load(config: GraphConfig) -> tuple[Split, Split | None]:
    """The graph to train on, and the one of unseen entities if there is one.

    Raises AnyglotError for a missing or damaged file, and for a held-out triple with an entity or relation that no
    training triple has: there is no way to know of it.
    """
    split = load_split(Path(config.folder), None)
    if not config.unseen:
        return split, None
    unseen = load_split(Path(config.unseen), split.graph.relations)
    shared = set(split.graph.entities) & set(unseen.graph.entities)
    if shared:
        raise AnyglotError(
            f"{config.unseen}: {len(shared)} of its entities are in {config.folder} too, e.g. {min(shared)!r}"
        )
    return split, unseen


def load_split(folder: Path, relations: tuple[str, ...] | None) -> Split:
    """A folder of train.txt, valid.txt and test.txt; relations: those that are known (default: of train.txt)."""
    named = {name: read_triples(folder / f"{name}.txt") for name in ("train", "valid", "test")}
    entities = tuple(sorted({name for head, _, tail in named["train"] for name in (head, tail)}))
    relations = relations or tuple(sorted({relation for _, relation, _ in named["train"]}))
    triples = {
        name: index_triples(found, entities, relations, str(folder / f"{name}.txt")) for name, found in named.items()
    }
    graph = KnowledgeGraph(entities, relations, triples["train"])
    return Split(graph, {name: torch.from_numpy(found) for name, found in triples.items()})


def train(
    config: LinkPredictionConfig, split: Split, where: str = "config", log: TrainingLog | None = None
) -> LinkPredictor:
    """Train on the training triples, both directions; returns the model in evaluation mode, on this process' device."""
    torch.manual_seed(config.seed)
    device = local_device()
    model = LinkPredictor(config, split.graph, where).to(device).train()
    read = [part.to(device) for part in model.encoder.read(split.graph)]
    relations, entities = len(split.graph.relations), len(split.graph)
    known = KnownTails(split.triples["train"].to(device), relations)
    queries = with_inverses(split.triples["train"], relations).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        batch = queries[torch.randint(len(queries), (config.batch_size,), generator=generator).to(device)]
        drawn = None
        if config.negatives:
            drawn = torch.randperm(entities, generator=generator)[: config.negatives].to(device)
        loss = contrast(model, model.encoder(*read), batch, drawn, known)
        if not bool(torch.isfinite(loss)):
            raise AnyglotError(f"the loss became {float(loss.detach())} at step {step}; lower lr and run again")
        optimizer.param_groups[0]["lr"] = config.lr * factor(config.schedule, step, config.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if log is not None:
            log.advance(step + 1, config.steps, f"loss {float(loss.detach()):.4g}" if log.watched else "")
            if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
                log.scalars(step + 1, config.steps, {"loss": float(loss.detach())})
    return model.eval()


def contrast(model: LinkPredictor, vectors: Tensor, batch: Tensor, drawn: Tensor | None, known: KnownTails) -> Tensor:
    """Cross-entropy of the true tails of queries [n, 3] against entities that are not known to be true.

    Those are all entities [entities, width], or the ones `drawn` and the other tails of the batch.
    """
    heads, relations, tails = batch.unbind(1)
    everyone = torch.arange(len(vectors), device=vectors.device)
    candidates = everyone if drawn is None else torch.unique(torch.cat([drawn, tails]))
    place = torch.full_like(everyone, -1)
    place[candidates] = torch.arange(len(candidates), device=vectors.device)
    scores = model(vectors, heads, relations, candidates)
    rows, true = known.of(heads, relations)
    wrongly = (place[true] >= 0) & (true != tails[rows])
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    hidden[rows[wrongly], place[true[wrongly]]] = True
    return F.cross_entropy(scores.masked_fill(hidden, -torch.inf), place[tails])


@torch.no_grad()
def rank(model: LinkPredictor, split: Split, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the triples of one file, by the model and by chance; the encoder reads training triples only."""
    device = next(model.parameters()).device
    vectors = model.encoder(*(part.to(device) for part in model.encoder.read(split.graph)))
    known, triples = split.known(), split.triples[name]

    def score(heads: Tensor, relations: Tensor) -> Tensor:
        return model(vectors, heads.to(device), relations.to(device)).cpu()

    return figures(filtered_ranks(score, triples, known)), chance(triples, known, len(split.graph))


def measure(model: LinkPredictor, config: LinkPredictionConfig, split: Split, unseen: Split | None) -> Measured:
    """Figures of a trained model; see `Measured`."""
    found, by_chance = {}, {}
    for name, part in (("heldout", split), ("unseen", unseen)):
        if part is not None:
            found[name], by_chance[name] = rank(model, part, config.split)
    codes = model.encoder.codes(split.graph)
    return Measured(
        heldout=found["heldout"],
        unseen=found.get("unseen", {}),
        chance=by_chance,
        parameters=count(model),
        entity_parameters=count(model.encoder),
        codes=None if codes is None else report(codes),
    )


def count(module: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def summary(config: LinkPredictionConfig, measured: Measured) -> str:
    """A few lines for the terminal."""
    lines = [f"{config.out}: {measured.parameters:,} parameters, {measured.entity_parameters:,} of them for entities"]
    for name, found in (("held-out triples", measured.heldout), ("unseen entities", measured.unseen)):
        if found:
            random = measured.chance["heldout" if found is measured.heldout else "unseen"]
            shown = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
            lines.append(f"  {name}: {shown} (by chance: mrr {random['mrr']:.3f})")
    if measured.codes is not None:
        codes = measured.codes
        lines.append(
            f"  {codes.entities} entities have {codes.distinct} codes, {codes.collisions} share theirs; "
            f"{codes.entropy:.2f} bits"
        )
    return "\n".join(lines)
