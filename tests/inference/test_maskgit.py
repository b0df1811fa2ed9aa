"""Masked decoding against a slow twin that goes position by position, row by row and without padding."""

import dataclasses
from math import cos, floor, pi

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError
from anyglot.inference.maskgit import MaskGITSampling, fill
from anyglot.lm.maskgit import MaskedTransformer, MaskGITConfig
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

SPEC = CodeSpec("image", (16, 9), (Axis("height", "sized", 6), Axis("width", "sized", 6)))
GREEDY = MaskGITSampling(temperature=0, noise=0)


@pytest.fixture(scope="module")
def model() -> MaskedTransformer:
    torch.manual_seed(0)
    made = MaskedTransformer(MaskGITConfig(hidden=32, layers=2), Vocabulary.build(40, "t", [(SPEC, "i")]), "image")
    torch.nn.init.normal_(made.embedding.weight)  # so that no two choices are nearly even
    return made.eval()


def blocks(model):
    empty = [np.full((*grid, 2), -1) for grid in ((3, 4), (2, 2), (5, 1))]
    empty[1][0] = [[3, 8], [15, 0]]
    return [model.block(words, codes) for words, codes in zip(([1, 2, 3], [], [7]), empty, strict=True)]


@torch.no_grad()
def slow(model, block, settings):
    """The likeliest ids, the surest first, one row alone."""
    ids = block.ids.copy()
    total = int((ids == model.mask).sum())
    for step in range(settings.steps):
        told = []
        for words in (block.words, block.words[:0]):
            batch = model.collate([dataclasses.replace(block, words=words, ids=ids)])
            told.append(model(batch)[0])
        found = []
        for place, (cell, token) in enumerate(np.ndenumerate(ids)):
            if token == model.mask:
                logits, base = (model.logits(states[place][None], cell[-1])[0] for states in told)
                sure, best = (base + settings.guidance * (logits - base)).log_softmax(0).max(0)
                found.append((-float(sure), cell, int(best) + model.codebooks[cell[-1]].start))
        left = min(floor(cos(pi / 2 * (step + 1) / settings.steps) * total), len(found) - 1)
        for _, cell, token in sorted(found)[: len(found) - left]:
            ids[cell] = token
        if left <= 0:
            return ids
    raise AssertionError("not all is written")


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5, 100])  # 100: one position at a time
def test_decoding_is_that_of_the_slow_twin(model, steps, guidance):
    settings = dataclasses.replace(GREEDY, steps=steps, guidance=guidance)
    made = fill(model, blocks(model), [0, 1, 2], settings)
    for block, ids in zip(blocks(model), made, strict=True):
        np.testing.assert_array_equal(ids, slow(model, block, settings))


def test_what_is_drawn_does_not_depend_on_the_rows_beside_it_and_known_codes_stay(model):
    settings = MaskGITSampling(steps=4)
    together = fill(model, blocks(model), [5, 6, 7], settings)
    for index, block in enumerate(blocks(model)):
        np.testing.assert_array_equal(fill(model, [block], [5 + index], settings)[0], together[index])
    codes = model.codes(together[1])
    assert codes[0].tolist() == [[3, 8], [15, 0]]
    assert (codes >= 0).all()
    assert (codes < [16, 9]).all()
    assert any((a != b).any() for a, b in zip(together, fill(model, blocks(model), [8, 9, 10], settings), strict=True))


def test_codes_that_the_modality_does_not_have_are_refused(model):
    with pytest.raises(AnyglotError, match="codebooks of"):
        model.block([], np.full((2, 2, 2), 9))
    with pytest.raises(AnyglotError, match="must be"):
        model.block([], np.zeros((2, 2, 1), int))
