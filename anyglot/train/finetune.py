"""Fine-tuning: the loop of pretraining, begun from a trained model, whose vocabulary and tokenizers it keeps.

What is learned is said by the data: of a chat the assistant's parts, of whatever modality and in every turn, and what a
part's or message's own `loss` says (docs/data.md).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import typed
from anyglot.data.checkpoint import read_checkpoint
from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.train.engine import EngineConfig, process_group
from anyglot.train.finished import has_steps
from anyglot.train.objective import NextTokens
from anyglot.train.pretrain import PretrainConfig, pretrain
from anyglot.train.schedule import ScheduleConfig


@dataclass(kw_only=True)
class FinetuneConfig(PretrainConfig):
    """A run from a trained model: the fields of `PretrainConfig`, with other defaults.

    checkpoint: the model's directory, or its run's. It brings vocabulary and tokenizers, so that `tokenizers` and the
    shape of the `model` are not given. The stores' `epochs`, `steps` or `minutes` say how long the run is.
    """

    checkpoint: str
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(learning_rate=2e-5, weight_decay=0.0))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=20))
    codebook_embeddings: bool = False
    z_loss: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.tokenizers or self.model.pretrained:
            given = "tokenizers" if self.tokenizers else "model.pretrained"
            raise ConfigError(f"{given}: the run begins from `checkpoint`, which brings its own; leave it out")
        self.tokenizers = {TEXT: self.checkpoint}  # until `begin_from` knows where they lie
        super().__post_init__()
        if self.codebook_embeddings:
            raise ConfigError("codebook_embeddings is for models that begin untrained; leave it out")
        lengths = [any(share.epochs for share in self.data.stores.values()), self.steps > 0, self.minutes > 0]
        if sum(lengths) != 1:
            raise ConfigError(
                f"data.stores.*.epochs, steps and minutes: {sum(lengths)} of them are set; set one, it says how long "
                "the run is"
            )


def run(mapping: dict[str, Any], where: str) -> None:
    """Fine-tune as the config says, going on where an earlier run of it stopped, or ended with fewer `steps`."""
    config = typed(FinetuneConfig, mapping, where)
    if has_steps(Path(config.out), config.own_steps):
        return
    objective = NextTokens(begin_from(config))
    with process_group(config.engine.timeout_minutes) as (rank, world):
        pretrain(config, rank, world, objective)


def begin_from(config: FinetuneConfig) -> Vocabulary:
    """Fill in what the checkpoint brings, and return its vocabulary."""
    checkpoint = read_checkpoint(config.checkpoint)
    config.model.pretrained = str(checkpoint.directory)
    config.tokenizers = checkpoint.tokenizers
    return checkpoint.vocabulary
