"""The quantizer stage: what it writes, that it is repeatable, and what it says to bad input."""

import json

import pytest
import torch
from safetensors.torch import save_file

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.tokenizers.quantizers import store
from anyglot.train.log import read_log
from anyglot.train.quantizer import QuantizerStageConfig, measure, run, train
from anyglot.train.vectors import VectorsConfig, load_vectors


@pytest.fixture
def file(tmp_path):
    """600 and 200 correlated vectors of width 8, in 5 classes."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator)
    vectors, labels = torch.randn(800, 8, generator=generator) @ mix, torch.arange(800) % 5
    save_file(
        {
            "train": vectors[:600].contiguous(),
            "heldout": vectors[600:].contiguous(),
            "train_labels": labels[:600].contiguous(),
            "heldout_labels": labels[600:].contiguous(),
        },
        tmp_path / "vectors.safetensors",
    )
    return tmp_path / "vectors.safetensors"


def mapping(file, **changes):
    return {
        "stage": "quantizer",
        "out": str(file.parent / "out"),
        "vectors": {"file": str(file)},
        "quantizer": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16}},
        "steps": 60,
        "batch_size": 64,
        "recall": [1, 10],
    } | changes


def test_a_run_writes_the_quantizer_its_figures_and_its_health(file, capsys):
    run(mapping(file), "here")
    out = file.parent / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 < metrics["relative_error"] < 0.6
    assert metrics["bits"] == 8
    assert [level["size"] for level in metrics["health"]] == [16, 16]
    assert 0 < metrics["recall"]["1"] <= metrics["recall"]["10"] <= 1
    assert (out / "health.png").read_bytes().startswith(b"\x89PNG")
    last = read_log(out)[-1]
    assert last["step"] == last["steps"] == 60
    for name in ("usage", "dead", "perplexity", "bits"):
        assert f"quantizer/{name}_0" in last
        assert f"quantizer/{name}_1" in last
    printed = capsys.readouterr().out
    assert "8.0 bits a vector" in printed
    assert "level 1:" in printed

    quantizer = store.load(out / "quantizer")
    held = load_vectors(VectorsConfig(str(file))).heldout
    error = (quantizer.decode(quantizer.encode(held)) - held).square().sum(1).mean().item()
    assert error == pytest.approx(metrics["distortion"], rel=1e-5)


def test_a_finished_run_is_not_repeated_nor_mixed_with_another(file):
    run(mapping(file), "here")
    before = (file.parent / "out" / "quantizer" / "model.safetensors").stat().st_mtime_ns
    run(mapping(file), "here")
    assert (file.parent / "out" / "quantizer" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(MismatchError, match="another 'steps'"):
        run(mapping(file, steps=61), "here")


def test_the_same_seed_gives_the_same_quantizer(file):
    config = typed(QuantizerStageConfig, mapping(file, autoencoder={"hidden": [16], "width": 4}), "here")
    vectors = load_vectors(config.vectors)
    one, other = (train(config, vectors, "here") for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert measure(one, vectors, []) == measure(other, vectors, [])


def test_distortion_and_relative_error_are_what_they_say(file):
    config = typed(QuantizerStageConfig, mapping(file), "here")
    vectors = load_vectors(config.vectors)
    model = train(config, vectors, "here")
    decoded = model(vectors.heldout)[0]
    distortion = sum(float(((a - b) ** 2).sum()) for a, b in zip(decoded, vectors.heldout, strict=True)) / 200
    centre = vectors.train.mean(0)
    spread = sum(float(((a - centre) ** 2).sum()) for a in vectors.heldout) / 200
    measured = measure(model, vectors, [])
    assert measured.distortion == pytest.approx(distortion, rel=1e-5)
    assert measured.relative_error == pytest.approx(distortion / spread, rel=1e-5)


def test_subsets_are_spread_evenly(file):
    vectors = load_vectors(VectorsConfig(str(file), train=100, heldout=50))
    whole = load_vectors(VectorsConfig(str(file)))
    assert torch.equal(vectors.train, whole.train[::6])
    assert torch.equal(vectors.heldout_labels, whole.heldout_labels[::4])


def test_bad_input_is_named(file, tmp_path):
    with pytest.raises(AnyglotError, match=r"absent.safetensors: no such file; `anyglot fetch vectors"):
        load_vectors(VectorsConfig(str(tmp_path / "absent.safetensors")))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(AnyglotError, match=r"broken.safetensors: not a safetensors file"):
        load_vectors(VectorsConfig(str(tmp_path / "broken.safetensors")))
    save_file({"train": torch.zeros(4, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(AnyglotError, match=r"half.safetensors: needs a float tensor 'heldout'"):
        load_vectors(VectorsConfig(str(tmp_path / "half.safetensors")))
    save_file({"train": torch.zeros(4, 3), "heldout": torch.zeros(4, 2)}, tmp_path / "odd.safetensors")
    with pytest.raises(AnyglotError, match="differ in width"):
        load_vectors(VectorsConfig(str(tmp_path / "odd.safetensors")))
    with pytest.raises(ConfigError, match=r"autoencoder.hidden needs autoencoder.width"):
        run(mapping(file, autoencoder={"hidden": [4]}), "here")
    with pytest.raises(ConfigError, match="quantizer.type: no quantizer 'vqq'; did you mean 'vq'"):
        run(mapping(file, quantizer={"type": "vqq"}), "here")


def test_a_loss_that_is_no_number_stops_the_run(file):
    with pytest.raises(AnyglotError, match="lower"):
        run(mapping(file, lr=1e20, autoencoder={"hidden": [16], "width": 4}), "here")
    assert not (file.parent / "out" / "done.json").exists()
