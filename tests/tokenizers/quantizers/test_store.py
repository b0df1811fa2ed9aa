"""A quantizer in a directory: what comes back, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyglot.errors import AnyglotError, MismatchError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.store import FORMAT, load, save

CONFIGS = {
    "linear": {"type": "vq", "size": 16, "codebook": "linear", "kmeans_init": False, "reset_below": 0.0},
    "affine": {"type": "vq", "size": 16, "codebook": "affine"},
    "cosine": {"type": "vq", "size": 16, "metric": "cosine", "width": 2},
    "hyperbolic": {"type": "hyperbolic", "size": 16},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(build(CONFIGS["affine"], 4), CONFIGS["affine"], tmp_path / "quantizer")
    return tmp_path / "quantizer"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_quantizer_goes_on_as_the_saved_one(name: str, tmp_path: Path) -> None:
    quantizer = build(CONFIGS[name], 4)
    for _ in range(3):
        quantizer(torch.randn(100, 4))
    save(quantizer, CONFIGS[name], tmp_path / "q")
    other = load(tmp_path / "q")
    assert not other.training
    z = torch.randn(100, 4)
    assert torch.equal(other.encode(z), quantizer.encode(z))
    for each in (quantizer, other):
        torch.manual_seed(0)
        each.train()(z)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_another_format_is_refused(folder: Path) -> None:
    described = json.loads((folder / "quantizer.json").read_text("utf-8"))
    assert described["format"] == FORMAT
    for version in (FORMAT + 1, FORMAT - 1, None, "1"):
        (folder / "quantizer.json").write_text(json.dumps({**described, "format": version}))
        with pytest.raises(MismatchError, match=rf"format {version!r}, this version reads {FORMAT}; upgrade"):
            load(folder)
    (folder / "quantizer.json").write_text("[]")
    with pytest.raises(MismatchError, match="format None"):
        load(folder)


def test_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(AnyglotError, match=r"elsewhere: no quantizer here \(quantizer.json is missing\)"):
        load(folder.parent / "elsewhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(AnyglotError, match="model.safetensors: missing or damaged"):
        load(folder)


def test_damaged_files_are_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(AnyglotError, match="model.safetensors: missing or damaged"):
            load(folder)
    (folder / "quantizer.json").write_text('{"format": 1, "di')
    with pytest.raises(AnyglotError, match="quantizer.json: damaged"):
        load(folder)


def test_tensors_of_another_quantizer_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "codebook.weight": torch.zeros(17, 4)}, folder / "model.safetensors")
    with pytest.raises(AnyglotError, match="missing or damaged .*size mismatch"):
        load(folder)
    del tensors["codebook.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(AnyglotError, match="missing or damaged .*[Mm]issing key"):
        load(folder)
