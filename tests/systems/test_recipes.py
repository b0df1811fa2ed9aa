"""What every recipe must do that quantizes vectors: learn something of them, and keep the quantizer's contract."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyglot.config import config_root, load_mapping
from anyglot.systems import systems
from anyglot.tokenizers.quantizers import store

RECIPES = sorted(path.stem for path in (config_root() / "systems").glob("*.yaml"))
OF_VECTORS = [name for name in RECIPES if load_mapping(f"systems/{name}").get("stage") == "quantizer"]


@pytest.mark.parametrize("name", OF_VECTORS)
def test_recipe_learns_real_vectors_and_keeps_the_contract(
    name: str, train_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    trained = train_recipe(name)
    quantizer = trained.quantizer
    assert trained.measured.relative_error < 0.95  # a constant would come to 1
    assert trained.measured.bits > 0
    z = trained.model.encoder(trained.vectors.heldout[:64])
    result = quantizer(z)
    assert torch.equal(quantizer.encode(z), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.vectors)
    assert result.codes.shape == (len(z), len(quantizer.levels))
    assert (result.codes >= 0).all()
    assert (result.codes < torch.tensor(quantizer.levels)).all()
    assert torch.equal(quantizer.encode(z[7:8]), result.codes[7:8])
    store.save(quantizer, trained.config.quantizer, tmp_path / "q")
    again = store.load(tmp_path / "q")
    assert torch.equal(again.encode(z), result.codes)
    assert torch.equal(again.decode(result.codes), result.vectors)


def test_every_recipe_names_its_own_test() -> None:
    tests = [row.test for row in systems() if row.recipe]
    assert len(set(tests)) == len(tests)
