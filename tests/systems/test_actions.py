"""PRISE on motion capture: what a code says given what is observed, and what skills save."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import actions as actions_corpus
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.train import tokenizer as stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """The recipe's tokenizer, and demonstrations of the splits train and heldout."""
    if not assets.cached("pybullet"):
        pytest.skip("the pybullet wheel is not in the cache: `anyglot fetch actions --out runs/actions` gets it")
    folder = tmp_path_factory.mktemp("prise")
    actions_corpus.run({}, folder / "actions", "actions")
    settings = [f'data.files=["{folder}/actions/steps.jsonl"]', f"out={folder}/prise"]
    mapping = load_mapping("systems/prise", settings)
    mapping.pop("system")
    stage.run(mapping, "systems/prise")
    tokenizer: Any = load_tokenizer(folder / "prise" / "tokenizer")
    train, heldout = (
        [tokenizer.read(path) for path in sorted((folder / "actions" / "action").glob(f"steps-*-{split}.npy"))]
        for split in ("train", "heldout")
    )
    return tokenizer, train, heldout


def actions_of(tokenizer: Any, media: list[np.ndarray]) -> torch.Tensor:
    """Actions of all steps `[n, action]`, normalised."""
    return torch.cat([tokenizer.split(tokenizer.normalised(torch.from_numpy(steps)))[1] for steps in media])


def bits(train: list[list[int]], heldout: list[list[int]], size: int) -> float:
    """What coding held-out sequences takes with the frequencies of training, one added to each count."""
    counts = Counter(code for sequence in train for code in sequence)
    total = counts.total() + size
    return float(-sum(np.log2((counts[code] + 1) / total) for sequence in heldout for code in sequence))


def test_prise(trained: Any) -> None:
    tokenizer, train, heldout = trained
    width = tokenizer.config.observation
    wanted = actions_of(tokenizer, heldout)

    def error(change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        steps = [change(torch.from_numpy(tokenizer.codes_of(media)))[:, None] for media in heldout]
        decoded = tokenizer.decode(steps, [media[:, :width] for media in heldout])  # a code is a skill of one step
        return float((actions_of(tokenizer, decoded) - wanted).square().mean())

    # As many centres of the actions alone, the best that codes can do which know nothing of the observation.
    centres = kmeans(actions_of(tokenizer, train), tokenizer.quantizer.levels[0], iterations=50)[0]
    alone = float((centres[nearest(wanted, centres)[0]] - wanted).square().mean())
    right = error(lambda codes: codes)
    assert right < 0.6 * alone
    draw = torch.Generator().manual_seed(0)
    assert right < 0.8 * error(lambda codes: torch.randint(tokenizer.quantizer.levels[0], codes.shape, generator=draw))

    # Skills hold the very codes, in less.
    skills = [[code[:, 0].tolist() for code in tokenizer.encode(media)] for media in (train, heldout)]
    codes = [[tokenizer.codes_of(steps).tolist() for steps in media] for media in (train, heldout)]
    for sequence, steps in zip(skills[1], codes[1], strict=True):
        assert tokenizer._bpe.decode(np.array(sequence)).tolist() == steps
    assert sum(map(len, skills[1])) < 0.5 * sum(map(len, codes[1]))
    assert bits(*skills, tokenizer.config.size) < bits(*codes, tokenizer.quantizer.levels[0])
