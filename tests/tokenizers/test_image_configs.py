import pytest
import torch

from anyglot.config import config_root, load_mapping, typed
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.tokenizers.objectives.image import ImageObjectiveConfig
from anyglot.train.tokenizer import TokenizerConfig

NAMES = sorted(p.stem for p in (config_root() / "image").glob("*.yaml") if p.stem != "base")


@pytest.mark.parametrize("name", [*(f"image/{stem}" for stem in NAMES), "demo/image"])
def test_shipped_configs_build_and_fit_together(name):
    mapping = load_mapping(name, ["data.files=[a.jsonl]", "out=run"])
    config = typed(TokenizerConfig, mapping, name)
    objective = typed(ImageObjectiveConfig, config.objective, name)
    with torch.device("meta"):
        tokenizer = ImageTokenizer(typed(ImageConfig, config.model, name))
        latents = tokenizer.encoder(torch.empty(1, 3, objective.height, objective.width))
    assert latents.shape[1:] == (
        objective.height // tokenizer.stride,
        objective.width // tokenizer.stride,
        config.model["dim"],
    )


def test_the_demo_makes_64_codes_of_one_level():
    config = typed(TokenizerConfig, load_mapping("demo/image"), "demo/image")
    model = typed(ImageConfig, config.model, "demo/image")
    objective = typed(ImageObjectiveConfig, config.objective, "demo/image")
    assert (objective.height // model.network.stride) * (objective.width // model.network.stride) == 64
    assert len(ImageTokenizer(model).spec.levels) == 1
