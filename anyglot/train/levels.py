"""The transformer over levels of a run whose vocabulary has `depth` streams."""

from pathlib import Path
from typing import Protocol

from anyglot.errors import ConfigError, MismatchError
from anyglot.lm.depth import STREAM, WEIGHTS, DepthTransformer, build_depth, has_depth
from anyglot.lm.model import ModelConfig
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.trainable import NewRowsConfig


class Run(Protocol):
    """The fields of `PretrainConfig` that decide it."""

    model: ModelConfig
    freeze: list[str]
    new_rows: NewRowsConfig
    sequence_parallel: int
    seed: int


def trained_depth(config: Run, vocabulary: Vocabulary, hidden: int) -> DepthTransformer | None:
    """That of the checkpoint which a run starts from, or a new one; None if the vocabulary needs none.

    Raises ConfigError for what does not go together with it, MismatchError if the checkpoint's knows fewer levels.
    """
    if not has_depth(vocabulary):
        return None
    if config.freeze or config.new_rows.after:
        raise ConfigError(
            "freeze and new_rows do not know the transformer over levels of `depth` streams; leave them out"
        )
    if config.sequence_parallel > 1:
        raise ConfigError("the cells of `depth` streams cannot be parted over processes; set sequence_parallel=1")
    folder = Path(config.model.pretrained)
    if not config.model.pretrained or not (folder / WEIGHTS).is_file():
        return build_depth(config.model.depth, vocabulary, hidden, config.seed)
    found = DepthTransformer.load(folder)
    most = max(len(modality.levels) for modality in vocabulary.modalities if modality.stream == STREAM)
    if found.hidden != hidden or found.levels < most:
        raise MismatchError(
            f"{folder / WEIGHTS} is for {found.levels} levels, the vocabulary has {most}; train it anew"
        )
    return found
