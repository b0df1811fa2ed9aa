"""What a run of the loop lowers, and on which batches: nats of next tokens, or (`preference.py`) something else."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from anyglot.data.batches import Batches, BatchesConfig, PackedBatch, open_batches, single_pass
from anyglot.data.shards import TokenStore
from anyglot.lm.loss import TokenLoss
from anyglot.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anyglot.train.pretrain import PretrainConfig


class NextTokens:
    """The weighted mean of the nats of every next token that bears loss.

    vocabulary: the one that all stores must be of, or an extension of theirs; None: their own.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary

    def open(self, config: BatchesConfig) -> Batches:
        """The batches to train on."""
        return open_batches(config, self.vocabulary)

    def single_pass(
        self, store: TokenStore, config: BatchesConfig, rank: int, world: int, limit: int
    ) -> Iterator[PackedBatch]:
        """A rank's share of one pass over a held-out store, of `limit` batches at most (0: no limit)."""
        return single_pass(store, config.length, config.rows, rank, world, limit)

    def prepare(
        self, engine: Any, config: "PretrainConfig", heldout: list[TokenStore], micro_rows: int, rank: int, world: int
    ) -> None:
        """What has to be done with the model as the run begins from it. Every rank calls it."""

    def loss(self, engine: Any, micro: dict[str, Tensor]) -> TokenLoss:
        """The loss of a micro-batch, summed with the weights `weighted`. micro: some rows of a batch's arrays."""
        loss: TokenLoss = engine(
            micro["input_ids"], micro["position_ids"], micro["document_ids"], micro["labels"], micro["weighted"]
        )
        return loss

    def scalars(self) -> dict[str, float]:
        """What was measured since the last call, besides what `Meter` measures. Every rank calls it."""
        return {}

    def anew(self) -> "NextTokens":
        """The same with nothing measured yet: for an evaluation in the middle of training."""
        return self


NEXT_TOKENS = NextTokens()
