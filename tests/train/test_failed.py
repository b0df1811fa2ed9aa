"""A run that meets a loss or gradient that is not finite ends, and leaves the batch where one can look at it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from anyglot.data.batches import BatchesConfig, open_batches
from anyglot.data.mixture import Share
from anyglot.errors import AnyglotError
from anyglot.inspection import show
from anyglot.train.failed import NotFiniteError, keep
from tests.train.groups import one_process
from tests.train.runs import log, make_store, train, write_config


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("failed") / "store")


def printed(path, **options):
    console = Console(width=200, record=True, file=io.StringIO())
    show(Path(path), console=console, **options)
    return console.export_text()


@pytest.fixture
def kept(store, tmp_path):
    """A batch of 2 rows whose second row's third label has no finite loss."""
    batches = open_batches(BatchesConfig({"all": Share(str(store))}, length=64, rows=2))
    batch = batches.local(0)
    names = ("input_ids", "position_ids", "document_ids", "labels", "weights")
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in names}
    nll = tensors["weights"] * 2.5
    nll[1, 2] = float("nan")
    with one_process():
        error = keep(NotFiniteError("step 7: the loss is nan", tensors, nll), tmp_path, 7, batches.mixture.vocabulary)
    return tmp_path / "failed" / "step-00000007.safetensors", error, batch, batches.mixture.vocabulary


def test_the_batch_is_kept_as_it_was(kept):
    path, error, batch, _ = kept
    assert str(error) == f"step 7: the loss is nan; what was in it: anyglot inspect {path}"
    found = load_file(path)
    for name in ("input_ids", "position_ids", "document_ids", "labels", "weights"):
        np.testing.assert_array_equal(found[name], getattr(batch, name))
    assert np.isnan(found["nll"]).sum() == 1


def test_inspect_shows_the_worst_document_first(kept):
    path, _, batch, _ = kept
    text = printed(path)
    assert "step 7: the loss is nan" in text
    first = text.splitlines()[2].split()
    number = int(batch.document_ids[0].max()) + 1 + int(batch.document_ids[1, 2])
    assert first[:2] == [str(number), "1"]
    assert first[3] == "1"


def test_inspect_shows_a_document_token_by_token(kept):
    path, _, batch, vocabulary = kept
    text = printed(path, document=0)
    own = batch.input_ids[0][batch.document_ids[0] == 0]
    assert text.count("[bos]") == text.count("[eos]") == 1
    assert text.count("<speech>") == int((own == vocabulary.opener("speech")).sum())
    with pytest.raises(AnyglotError, match="no document 999"):
        printed(path, document=999)


def test_another_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AnyglotError, match="not a batch that a run stopped on; of a model, give its directory"):
        printed(tmp_path / "model.safetensors")


def test_a_run_that_diverges_ends_and_keeps_its_batch(store, tmp_path):
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", store, out)
    message = train(config, 1, "engine.learning_rate=1e15", "schedule.warmup=0", succeeds=False)
    (path,) = (out / "failed").glob("step-*.safetensors")
    assert f"what was in it: anyglot inspect {path}" in message
    step = int(path.stem.removeprefix("step-"))
    assert max(line["step"] for line in log(out)) == step  # the step before it, counted from 1, is the last in the log
    batches = open_batches(BatchesConfig({"all": Share(str(store))}, length=64, rows=4, seed=3))
    np.testing.assert_array_equal(load_file(path)["input_ids"], batches.local(step).input_ids)
    assert f"step {step}: the " in printed(path)
