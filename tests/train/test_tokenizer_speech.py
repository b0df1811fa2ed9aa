"""The tokenizer trainer with a speech objective: discriminator, balancer, teacher, all through one loop; and resume."""

import json
from importlib import import_module

import numpy as np
import pytest
import soundfile
import torch

from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.objectives.distillation import Teacher
from anyglot.train import tokenizer as trainer


@pytest.fixture
def documents(tmp_path):
    generator = np.random.default_rng(0)
    lines = []
    for index, length in enumerate((4000, 1200, 2500)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(length), 16000)
        split = "heldout" if index == 2 else "train"
        lines.append(json.dumps({"id": str(index), "split": split, "parts": [{"type": "speech", "path": path.name}]}))
    file = tmp_path / "speech.jsonl"
    file.write_text("\n".join(lines))
    return file


def mapping(documents, out, **fields):
    return {
        "stage": "tokenizer",
        "modality": "speech",
        "out": str(out),
        "data": {"files": [str(documents)]},
        "model": {
            "dim": 8,
            "encoder": {"type": "mel", "hop": 160, "stacked": 1, "window": 256, "mels": 20, "channels": 8, "blocks": 1},
            "decoder": {"type": "istft", "hop": 160, "window": 320, "delay": 80, "channels": 8, "blocks": 1},
            "quantizer": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8}},
        },
        "objective": {
            "seconds": 0.1,
            "mel_windows": [256],
            "mel_bands": [15],
            "balanced": True,
            "stft_windows": [128],
            "periods": [3],
            "discriminator_channels": 2,
            "discriminator_start": 2,
            "distillation": 1.0,
            "dim": 8,
        },
        "batch_size": 4,
        "steps": 6,
        "ema": 0.0,
        "log_every": 1,
        "save_every": 3,
        "sample_every": 100,
        "precision": "fp32",
        **fields,
    }


def test_it_trains_is_cut_off_and_goes_on_exactly(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(  # stands in for Whisper
        Teacher, "features", lambda self, sound: np.repeat(sound[::320, None], 384, axis=1).astype(np.float16)
    )
    whole = tmp_path / "whole"
    trainer.run(mapping(documents, whole), "test")
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["discriminator" in row for row in rows] == [False, False, True, True, True, True]
    assert all("distillation" in row and "projection" in row for row in rows)

    cut = tmp_path / "cut"
    crop = import_module("anyglot.tokenizers.objectives.speech").crop
    calls = []

    def failing(*arguments):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return crop(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("anyglot.tokenizers.objectives.speech.crop", failing)
        with pytest.raises(KeyboardInterrupt):
            trainer.run(mapping(documents, cut), "test")
    assert (cut / "state.pt").exists()
    trainer.run(mapping(documents, cut), "test")
    first, second = (load_tokenizer(folder / "tokenizer").state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
