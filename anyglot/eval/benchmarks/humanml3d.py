"""The HumanML3D protocol (Guo et al., CVPR 2022) of text to motion, over features of an evaluator of your choice.

Published figures are of the features of Guo et al.'s text and motion encoders. Those of other encoders are other
figures, and bear their evaluator's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.image import FeatureGaussian
from anyglot.eval.records import Records, fingerprint_of

BATCH = 32  # texts among which a motion's own is looked for
TOP = (1, 2, 3)
PAIRS = 300  # of diversity
PICKS = 10  # of a text's motions, for multimodality


@dataclass
class HumanML3D:
    """Features as .npy files. evaluator: what made them, part of the figures' names.

    texts: of the test set's texts, `[n, dim]`. motions: of what was written for them, `[n, dim]`, or
    `[replications, n, dim]` if it was written anew for each. real: of the test set's own motions, `[n, dim]`.
    several: of motions written for the same text, `[texts, repeats, dim]`, for multimodality; "": not measured.
    replications: how often texts are put into batches and pairs are drawn.
    """

    kind: str
    out: str
    evaluator: str
    texts: str
    motions: str
    real: str
    several: str = ""
    replications: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replications < 2 or not self.evaluator:
            raise ConfigError("an interval needs replications of 2 or more, and the figures the evaluator's name")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as the protocol says; write and return the figures, see `measure`."""
    config = typed(HumanML3D, mapping, where)
    files = {"texts": config.texts, "motions": config.motions, "real": config.real, "several": config.several}
    records = Records(to_mapping(config), {name: fingerprint_of([file]) for name, file in files.items() if file})
    several = read_features(config.several) if config.several else None
    texts, motions, real = (read_features(file) for file in (config.texts, config.motions, config.real))
    figures = measure(texts, motions, real, several, config.replications, config.seed)
    records.values = {f"humanml3d.{config.evaluator}.{name}": value for name, value in figures.items()}
    records.save(config.out)
    return records.metrics


def measure(
    texts: np.ndarray,
    motions: np.ndarray,
    real: np.ndarray,
    several: np.ndarray | None = None,
    replications: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """All figures, means over the replications, each with `<name>_interval`, half of its 95 % interval.

    Args: features as in `HumanML3D`.
    Returns:
        r_precision_top1 to 3, matching_score, diversity, frechet_distance (to `real`), multimodality; the first three
        of the real motions too, as `real_...`. texts: how many; unmatched: texts beyond the last whole batch of 32,
        which no R-precision is of.
    Raises AnyglotError: shapes that do not go together, numbers that are not finite, too few texts.
    """
    check(texts, motions, real, several, replications)
    drawn: dict[str, list[float]] = {}
    target = _gaussian(real)
    for number in range(replications):
        rng = np.random.default_rng([seed, number])
        written = motions[number] if motions.ndim == 3 else motions
        order = rng.permutation(len(texts))
        found: dict[str, float] = {}
        for prefix, features in (("", written), ("real_", real)):
            found |= {f"{prefix}{name}": value for name, value in matching(texts[order], features[order]).items()}
            found[f"{prefix}diversity"] = diversity(features, rng)
        found["frechet_distance"] = _gaussian(written).distance_to(target)
        if several is not None:
            found["multimodality"] = multimodality(several, rng)
        for name, value in found.items():
            drawn.setdefault(name, []).append(value)
    figures = {"texts": float(len(texts)), "unmatched": float(len(texts) % BATCH)}
    for name, values in drawn.items():
        figures[name] = float(np.mean(values))
        figures[f"{name}_interval"] = float(1.96 * np.std(values) / np.sqrt(replications))
    return figures


def matching(texts: np.ndarray, motions: np.ndarray) -> dict[str, float]:
    """R-precision: how often a text's own motion is among the 1, 2, 3 nearest to it of its batch of 32. Matching score:
    the mean distance of a text from its own. Features `[n, dim]`, of whole batches alone."""
    whole = len(texts) // BATCH * BATCH
    ranks, distances = [], []
    for start in range(0, whole, BATCH):
        batch = slice(start, start + BATCH)
        apart = np.linalg.norm(texts[batch, None] - motions[None, batch], axis=-1)
        own = np.diagonal(apart)
        nearer = apart < own[:, None]
        tied = (apart == own[:, None]) & np.tri(BATCH, k=-1, dtype=bool)  # as sorting leaves them: the earlier first
        ranks.append((nearer | tied).sum(1))
        distances.append(own)
    place = np.concatenate(ranks)
    found = {f"r_precision_top{top}": float((place < top).mean()) for top in TOP}
    return found | {"matching_score": float(np.concatenate(distances).mean())}


def diversity(features: np.ndarray, rng: np.random.Generator) -> float:
    """Mean distance of 300 motions `[n, dim]` from 300 others, each drawn without replacement."""
    one, other = (rng.choice(len(features), PAIRS, replace=False) for _ in range(2))
    return float(np.linalg.norm(features[one] - features[other], axis=1).mean())


def multimodality(several: np.ndarray, rng: np.random.Generator) -> float:
    """Mean distance of 10 of the motions for a text from 10, of `[texts, repeats, dim]`; the same places for all."""
    one, other = (rng.choice(several.shape[1], PICKS, replace=False) for _ in range(2))
    return float(np.linalg.norm(several[:, one] - several[:, other], axis=2).mean())


def check(
    texts: np.ndarray, motions: np.ndarray, real: np.ndarray, several: np.ndarray | None, replications: int
) -> None:
    """Raises AnyglotError for features that no figures can be made of."""
    given: Mapping[str, np.ndarray | None] = {"texts": texts, "motions": motions, "real": real, "several": several}
    for name, features in given.items():
        if features is not None and not np.isfinite(features).all():
            raise AnyglotError(f"{name}: some features are not finite; mend or leave out the motions they are of")
    if texts.ndim != 2 or real.shape != texts.shape or motions.shape[-2:] != texts.shape or motions.ndim not in (2, 3):
        raise AnyglotError(
            f"texts {texts.shape}, motions {motions.shape} and real {real.shape} must be [n, dim] of the same texts, "
            "motions also [replications, n, dim]"
        )
    if motions.ndim == 3 and len(motions) != replications:
        raise AnyglotError(f"motions were written {len(motions)} times; set replications to that, not {replications}")
    if len(texts) <= PAIRS:
        raise AnyglotError(f"{len(texts)} texts are too few: diversity is of {PAIRS} pairs; give more")
    if several is not None and (several.ndim != 3 or several.shape[1] < PICKS or several.shape[2] != texts.shape[1]):
        raise AnyglotError(f"several {several.shape} must be [texts, {PICKS} or more, {texts.shape[1]}]")


def read_features(path: str | Path) -> np.ndarray:
    """A .npy file of numbers as float64. Raises AnyglotError naming it."""
    try:
        found = np.load(path, allow_pickle=False)
        return np.asarray(found, dtype=np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise AnyglotError(
            f"{path}: no array of numbers can be read from it ({error}); write it with numpy.save"
        ) from error


def _gaussian(features: np.ndarray) -> FeatureGaussian:
    found = FeatureGaussian()
    found.update(torch.from_numpy(features))
    return found
