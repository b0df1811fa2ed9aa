"""Recipes of the survey's systems, trained as they are shipped, once per test run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anyglot.config import load_mapping, typed
from anyglot.systems import about
from anyglot.tokenizers.quantizers import Quantizer
from anyglot.train.quantizer import Measured, QuantizerStageConfig, VectorAutoencoder, measure, train
from anyglot.train.vectors import Vectors, load_vectors

ROOT = Path(__file__).parents[2]


@dataclass
class Trained:
    """A recipe's result. measured: its figures on the recipe's own held-out vectors."""

    config: QuantizerStageConfig
    model: VectorAutoencoder
    vectors: Vectors
    measured: Measured

    @property
    def quantizer(self) -> Quantizer:
        return self.model.quantizer


@pytest.fixture(scope="session")
def vectors_folder() -> Path:
    folder = ROOT / "runs" / "vectors"
    if not (folder / "vectors.json").exists():
        pytest.skip(f"no vectors in {folder}: `anyglot fetch vectors --out runs/vectors` makes them")
    return folder


@pytest.fixture(scope="session")
def train_recipe(vectors_folder: Path) -> Callable[..., Trained]:
    """`train_recipe("opq", "quantizer.size=16")`: train a recipe of configs/systems with overrides; asked again, the
    same result comes back, so do not change it."""
    made: dict[tuple[str, ...], Trained] = {}

    def run(name: str, *overrides: str) -> Trained:
        if (name, *overrides) not in made:
            mapping = load_mapping(f"systems/{name}", overrides)
            about(mapping, name)
            mapping.pop("system")
            config = typed(QuantizerStageConfig, mapping, name)
            config.vectors.file = str(ROOT / config.vectors.file)
            vectors = load_vectors(config.vectors)
            model = train(config, vectors, name)
            made[name, *overrides] = Trained(config, model, vectors, measure(model, vectors, config.recall))
        return made[name, *overrides]

    return run


@pytest.fixture(scope="session")
def train_like(train_recipe: Callable[..., Trained]) -> Callable[..., Trained]:
    """`train_like("opq", {"type": "pq", ...})`: another quantizer in the setting of a recipe, as a baseline."""

    def run(name: str, quantizer: dict[str, Any], **changes: Any) -> Trained:
        mapping = load_mapping(f"systems/{name}")
        mapping.pop("system")
        config = typed(QuantizerStageConfig, {**mapping, "quantizer": quantizer, **changes}, name)
        config.vectors.file = str(ROOT / config.vectors.file)
        vectors = load_vectors(config.vectors)
        model = train(config, vectors, name)
        return Trained(config, model, vectors, measure(model, vectors, config.recall))

    return run
