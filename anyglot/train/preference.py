"""Preferences: direct preference optimisation (DPO, arXiv 2305.18290) over documents of any modalities.

The loss is a function of the log-probabilities of whole answers, which are sums over tokens. Its gradient is therefore
that of a cross-entropy in which every token weighs as much as its answer's derivative says, of either sign: the head is
evaluated once without gradient for these weights, then as ever, and `[tokens, vocabulary]` logits never exist.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from anyglot.config import typed
from anyglot.data.batches import BatchesConfig, PackedBatch
from anyglot.data.pairs import PairBatches, open_pairs, pair_pass
from anyglot.data.shards import TokenStore
from anyglot.errors import ConfigError
from anyglot.files import atomic_path
from anyglot.lm.loss import TokenLoss
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.engine import EngineConfig, process_group
from anyglot.train.finetune import FinetuneConfig, begin_from
from anyglot.train.finished import has_steps
from anyglot.train.objective import NextTokens
from anyglot.train.pretrain import PretrainConfig, by_rank_0, micro_batches, pretrain, tensors_of

FIGURES = ("loss", "accuracy", "margin", "reward/chosen", "reward/rejected")


@dataclass(kw_only=True)
class PreferenceConfig(FinetuneConfig):
    """A run from a trained model, which is also the reference, on stores of preferences.

    beta: how dear it is to move away from the reference. label_smoothing: share of preferences taken to be the wrong
    way round (cDPO, Mitchell 2023), 0 to below 0.5. nll_weight: of the chosen answer's nats per token, which keeps it
    likely (arXiv 2404.19733).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_weight: float = 0.0
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(learning_rate=1e-6, weight_decay=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or not 0 <= self.label_smoothing < 0.5 or self.nll_weight < 0:
            raise ConfigError("beta must be above 0, label_smoothing in [0, 0.5) and nll_weight at least 0")
        if self.sequence_parallel > 1:
            raise ConfigError("sequence_parallel: an answer's log-probability needs whole rows; set it to 1")
        if self.normalise != "token":
            raise ConfigError("normalise: the loss is the mean over pairs; leave it out")
        for name in ("modality_weights", "z_loss"):
            if getattr(self, name):
                raise ConfigError(f"{name}: an answer's log-probability counts every token once; leave it out")


def run(mapping: dict[str, Any], where: str) -> None:
    """Train as the config says, going on where an earlier run of it stopped, or ended with fewer `steps`."""
    config = typed(PreferenceConfig, mapping, where)
    if has_steps(Path(config.out), config.own_steps):
        return
    objective = Preferences(begin_from(config), config)
    with process_group(config.engine.timeout_minutes) as (rank, world):
        pretrain(config, rank, world, objective)


class PairLoss(NamedTuple):
    """Of every pair, tensors `[pairs]`. rewards: beta times the log-ratio to the reference."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def pair_loss(policy: Tensor, reference: Tensor, tokens: Tensor, config: PreferenceConfig) -> PairLoss:
    """The loss of pairs of answers.

    Args:
        policy, reference: log-probabilities in nats `[pairs, 2]`, chosen and rejected. tokens: how many they are of.
    """
    chosen, rejected = (config.beta * (policy - reference)).unbind(1)
    margin, wrong = chosen - rejected, config.label_smoothing
    loss = -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)
    loss = loss - config.nll_weight * policy[:, 0] / tokens[:, 0].clamp(min=1)
    return PairLoss(loss, chosen, rejected)


class Preferences(NextTokens):
    """The mean over pairs of `pair_loss`. A pair's documents share a row, see `PairBatch`."""

    def __init__(self, vocabulary: Vocabulary, config: PreferenceConfig) -> None:
        super().__init__(vocabulary)
        self.config, self.model = config, _weights(config.model.pretrained)
        self.reference: dict[str, np.ndarray] = {}  # fingerprint of a store -> log-probabilities of its documents
        self.sums = torch.zeros(len(FIGURES) + 1, dtype=torch.float64)  # of FIGURES and of 1, over pairs

    def open(self, config: BatchesConfig) -> PairBatches:
        """The pairs to train on; `prepare` has yet to add what the reference says of them."""
        assert self.vocabulary is not None
        mixture = open_pairs(config.stores, config.length, config.seed, self.vocabulary)
        self.batches = PairBatches(mixture, config.rows, config.prefetch)
        return self.batches

    def prepare(
        self, engine: Any, config: PretrainConfig, heldout: list[TokenStore], micro_rows: int, rank: int, world: int
    ) -> None:
        """Log-probabilities under the model that the run begins from, out of `<out>/reference` or computed now."""
        self.sums = self.sums.to(engine.device)
        folder, stores = Path(config.out) / "reference", self.batches.mixture.stores
        for store in (*stores, *heldout):
            found = self._reference(engine, store, config.data, micro_rows, rank, world, folder)
            self.reference[store.fingerprint] = found
        self.batches.reference = [self.reference[store.fingerprint] for store in stores]

    def single_pass(
        self, store: TokenStore, config: BatchesConfig, rank: int, world: int, limit: int
    ) -> Iterator[PackedBatch]:
        """A rank's share of one pass over a held-out store's pairs."""
        return pair_pass(store, self.reference[store.fingerprint], config.length, config.rows, rank, world, limit)

    def loss(self, engine: Any, micro: dict[str, Tensor]) -> TokenLoss:
        """The sum of the losses of a micro-batch's pairs; its gradient is that of a weighted cross-entropy."""
        mask = (micro["weights"] > 0).float()
        tokens = _by_answer(mask, micro).reshape(-1, 2)
        counted = (tokens.sum(1) > 0).double()  # rows may have room for more pairs than they hold
        value, nats = torch.zeros((), device=mask.device), torch.zeros_like(mask)

        def reweigh(nll: Tensor) -> Tensor:
            with torch.enable_grad():
                policy = (-_by_answer(nll, micro)).requires_grad_()
                found = pair_loss(policy.reshape(-1, 2), micro["reference"].view(-1, 2), tokens, self.config)
                total = (found.loss * counted).sum()
                (derivative,) = torch.autograd.grad(total, policy)
            value.copy_(total.detach())
            nats.copy_(nll)
            self._count(found, counted)
            return torch.nn.functional.pad(-derivative, (0, 1)).gather(1, _answers(micro))

        places = (micro[name] for name in ("input_ids", "position_ids", "document_ids", "labels"))
        loss: TokenLoss = engine(*places, mask, reweigh)
        return loss._replace(total=loss.total + (value - loss.total).detach(), nll=nats.flatten())

    def scalars(self) -> dict[str, float]:
        """Means over pairs since the last call: of the loss, how often the chosen answer's reward is the higher one, by
        how much, and both rewards."""
        dist.all_reduce(self.sums)
        *figures, pairs = self.sums.tolist()
        self.sums = torch.zeros_like(self.sums)
        return {f"preference/{name}": value / max(pairs, 1) for name, value in zip(FIGURES, figures, strict=True)}

    def anew(self) -> "Preferences":
        """The same with nothing measured yet."""
        other = copy(self)
        other.sums = torch.zeros_like(self.sums)
        return other

    def _count(self, found: PairLoss, counted: Tensor) -> None:
        margin = (found.chosen_reward - found.rejected_reward).detach()
        columns = (found.loss, (margin > 0).double(), margin, found.chosen_reward, found.rejected_reward)
        table = torch.stack([*(column.detach() for column in columns), torch.ones_like(counted)])
        self.sums += (table * counted).sum(1)

    @torch.no_grad()
    def _reference(
        self,
        engine: Any,
        store: TokenStore,
        data: BatchesConfig,
        micro_rows: int,
        rank: int,
        world: int,
        folder: Path,
    ) -> np.ndarray:
        """float64 `[documents]`: the log-probability of what bears loss in each; 0 in pairs longer than a row."""
        made_with = {"model": self.model, "length": str(data.length)}
        path = folder / f"{store.fingerprint}.safetensors"
        cached = by_rank_0(lambda: _read(path, made_with))
        if cached is not None:
            return cached
        found = torch.zeros(len(store), dtype=torch.float64, device=engine.device)
        unknown = np.zeros(len(store))
        engine.eval()
        for batch in pair_pass(store, unknown, data.length, data.rows, rank, world):
            for micro in micro_batches(tensors_of(batch, engine.device), micro_rows):
                nll = super().loss(engine, micro | {"weighted": (micro["weights"] > 0).float()}).nll
                there = micro["documents"] >= 0
                found[micro["documents"][there]] = -_by_answer(nll.view(there.shape[0], -1), micro)[there]
        engine.train()
        dist.all_reduce(found)
        values: np.ndarray = found.cpu().numpy()
        if rank == 0:
            with atomic_path(path) as temporary:
                save_file({"reference": values}, temporary, made_with)
        return values


def _by_answer(values: Tensor, micro: dict[str, Tensor]) -> Tensor:
    """float64 `[rows, documents]`: sums of values `[rows, length]` over the tokens of each document that bear loss."""
    rows, answers = micro["reference"].shape
    sums = torch.zeros(rows, answers + 1, dtype=torch.float64, device=values.device)
    return sums.scatter_add_(1, _answers(micro), values.double())[:, :answers]


def _answers(micro: dict[str, Tensor]) -> Tensor:
    """Which answer of its row each token bears loss in, int64 `[rows, length]`; one more than there are: in none."""
    return torch.where(micro["weights"] > 0, micro["document_ids"].long(), micro["reference"].shape[1])


def _read(path: Path, made_with: dict[str, str]) -> np.ndarray | None:
    """What an earlier start of the run found of the same model, if it is there and whole."""
    try:
        with safe_open(path, "numpy") as file:
            return file.get_tensor("reference") if file.metadata() == made_with else None
    except (OSError, SafetensorError):
        return None


def _weights(directory: str) -> str:
    """What tells a model's weights from others: where they are, their sizes and times of change."""
    files = sorted(Path(directory).resolve().glob("*.safetensors"))
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
