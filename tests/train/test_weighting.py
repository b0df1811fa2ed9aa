"""Weights and normalisation of the loss, against one document a row on one device, written out."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from anyglot.config import load_mapping, typed
from anyglot.data.batches import BatchesConfig, open_batches
from anyglot.data.mixture import Share
from anyglot.errors import ConfigError
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.train.pretrain import PretrainConfig
from anyglot.train.weighting import NORMALISE, LossWeights
from tests.train.groups import one_process
from tests.train.runs import log, losses, make_store, train, write_config

IMAGE = CodeSpec("image", (4,), (Axis("height", "sized", 2), Axis("width", "sized", 2)))
SPEECH = CodeSpec("speech", (2, 3), (Axis("time", "open", 5),))
VOCABULARY = Vocabulary.build(5, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=2)
START = {block.name: block.start for block in VOCABULARY.blocks}
CPU = torch.device("cpu")
WEIGHTS = {"image": 0.7, "speech": 2.0, "speech.1": 0.3, "structure": 0.5}
SHAPE = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2)


@pytest.fixture(scope="module")
def group():
    with one_process():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("weighting") / "store")


def meaning(vocabulary, token):
    """The group of an id, and its block's name."""
    block = vocabulary.blocks[vocabulary.lookup.block[token]]
    return (block.modality if block.kind in ("text", "codes") else "structure"), block.name


def reference(model, vocabulary, batch, normalise, weights, z_loss):
    """The slow twin: every document alone, in a plain forward of the Hugging Face model, its sums taken one by one."""
    terms = []  # (document, group, the token's own weight, its loss)
    for row in range(len(batch.input_ids)):
        for number in range(batch.document_ids[row].max() + 1):
            here = batch.document_ids[row] == number
            logits = model(torch.from_numpy(batch.input_ids[row][here])[None]).logits[0]
            for logit, label, weight in zip(logits, batch.labels[row][here], batch.weights[row][here], strict=True):
                if weight > 0:
                    group, name = meaning(vocabulary, int(label))
                    log_z = logit.logsumexp(0)
                    terms.append(((row, number), group, name, weight, log_z - logit[label] + z_loss * log_z**2))
    by_group = defaultdict(lambda: [0.0, 0.0])
    by_document = defaultdict(lambda: [0.0, 0.0])
    total = [0.0, 0.0]
    for document, group, name, weight, loss in terms:
        of_level = weight * (weights.get(name, 1.0) if name != group else 1.0)
        of_both = of_level * weights.get(group, 1.0)
        for sums, value in ((by_group[group], of_level), (by_document[document], of_both), (total, of_both)):
            sums[0] = sums[0] + value * loss
            sums[1] += float(value)
    if normalise == "token":
        return total[0] / total[1]
    if normalise == "sample":
        return sum(a / b for a, b in by_document.values()) / len(by_document)
    present = {group: weights.get(group, 1.0) for group in by_group}
    return sum(present[group] * a / b for group, (a, b) in by_group.items()) / sum(present.values())


@pytest.mark.parametrize("normalise", NORMALISE)
def test_packed_and_accumulated_equals_one_document_a_row(normalise, store, group):
    batches = open_batches(BatchesConfig({"all": Share(str(store))}, length=64, rows=4, seed=3))
    vocabulary, batch = batches.mixture.vocabulary, batches.local(0)
    batch.weights[0, 5:9] *= 0.25  # a part that counts less
    model = build_model(SHAPE, vocabulary.size, seed=1)
    assert (batch.document_ids.max(1) > 0).any(), "no row holds several documents"
    wanted = reference(model, vocabulary, batch, normalise, WEIGHTS, 1e-2)
    wanted_gradients = torch.autograd.grad(wanted, list(model.parameters()))

    language_model = LanguageModel(model, z_loss=1e-2)
    names = ("input_ids", "position_ids", "document_ids", "labels", "weights")
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in names}
    weights, divisor = LossWeights(vocabulary, WEIGHTS, normalise, CPU)(
        tensors["labels"], tensors["weights"], tensors["document_ids"]
    )
    total = sum(
        language_model(*(tensors[name][rows] for name in names[:4]), weights[rows]).total
        for rows in (slice(0, 1), slice(1, 4))
    )
    torch.testing.assert_close(total / divisor, wanted.float(), rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(total / divisor, list(model.parameters()))
    for gradient, expected in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("normalise", ["modality", pytest.param("sample", marks=pytest.mark.slow)])
def test_two_processes_give_the_loss_of_one_document_a_row(normalise, store, tmp_path):
    config = write_config(tmp_path / "config.yaml", store, tmp_path / "two")
    options = (f"normalise={normalise}", "modality_weights={image: 0.7, speech: 2.0, speech.1: 0.3, structure: 0.5}")
    options += ("model.attention_dropout=0", "steps=3", "engine.gradient_clip=0")
    train(config, 2, *options)
    train(config, 1, *options, "micro_rows=0", f"out={tmp_path / 'one'}")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-5)

    read = typed(PretrainConfig, load_mapping(config, options))
    assert read.modality_weights == WEIGHTS
    batches = open_batches(read.data)
    model = build_model(read.model, batches.mixture.vocabulary.size, read.seed)
    wanted = reference(model, batches.mixture.vocabulary, batches.local(0), normalise, WEIGHTS, read.z_loss)
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
    first = next(line for line in log(tmp_path / "two") if "loss" in line)
    assert first["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    assert first["gradient_norm"] == pytest.approx(float(norm), rel=1e-3)
    shares = [value for key, value in first.items() if key.startswith("gradient_share/")]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1)
    assert {"bits/speech.0", "bits/speech.1", "logit_rms", "log_z", "log_z_max"} <= set(first)
    assert first["log_z_max"] >= first["log_z"]


def test_weights_of_modalities_and_levels_multiply_those_of_the_batch(group):
    labels = torch.tensor([[0, START["speech.1"], VOCABULARY.bos, START["image.0"], START["speech.0"], -100]])
    weights = torch.tensor([[1.0, 1.0, 1.0, 3.0, 1.0, 0.0]])
    made = LossWeights(VOCABULARY, {"speech": 0.5, "speech.1": 0.5, "structure": 0.125}, "token", CPU)
    weighted, divisor = made(labels, weights, torch.zeros(1, 6))
    assert weighted.tolist() == [[1.0, 0.25, 0.125, 3.0, 0.5, 0.0]]
    assert divisor == 4.875


def test_what_is_not_there_does_not_count(group):
    """A document without loss is no sample, a modality without ids or of weight 0 no term: neither halves the mean."""
    labels = torch.tensor([[1, 2, 3, START["image.0"], -100]])
    documents = torch.tensor([[0, 0, 1, 1, -1]])
    weights = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    for normalise in ("sample", "modality"):
        weighted, divisor = LossWeights(VOCABULARY, {}, normalise, CPU)(labels, weights, documents)
        assert weighted.tolist() == [[0.5, 0.5, 0.0, 0.0, 0.0]]
        assert divisor == 1
    weighted, divisor = LossWeights(VOCABULARY, {"image": 0.0}, "modality", CPU)(labels, torch.ones(1, 5), documents)
    assert weighted[0, 3] == 0
    assert divisor == 1
    nothing, divisor = LossWeights(VOCABULARY, {}, "modality", CPU)(labels, torch.zeros(1, 5), documents)
    assert (nothing == 0).all()
    assert divisor > 0


@pytest.mark.parametrize(
    ("weights", "normalise", "message"),
    [
        (
            {"video": 1.0},
            "token",
            "modality_weights.video: valid names are text, image, speech, structure, image.0, speech.0",
        ),
        ({"speech.2": 1.0}, "token", "modality_weights.speech.2: valid names are"),
        ({"speech": -1.0}, "token", "modality_weights.speech must be 0 or more, not -1.0"),
        ({"speech": float("nan")}, "token", "modality_weights.speech must be 0 or more, not nan"),
        ({}, "tokens", "normalise is 'tokens'; valid: token, sample, modality"),
    ],
)
def test_an_impossible_weighting_is_refused(weights, normalise, message):
    with pytest.raises(ConfigError, match=message):
        LossWeights(VOCABULARY, weights, normalise, CPU)


def test_samples_are_not_counted_where_ranks_share_rows():
    with pytest.raises(ConfigError, match="normalise: sample takes documents in one piece; set sequence_parallel=1"):
        PretrainConfig("pretrain", "out", BatchesConfig({}), normalise="sample", sequence_parallel=2)
