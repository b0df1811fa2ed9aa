"""The result of a run: whole, loadable by others and by us, and only with tokenizers that belong to it."""

from types import SimpleNamespace

import pytest
import torch

from anyglot.errors import AnyglotError, MismatchError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train.export import check_tokenizers, export
from tests.inference.bundles import make_bundle, make_tokenizers
from tests.train.groups import one_process


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Only its tokenizers and its vocabulary are used."""
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def directories(bundle):
    return {name: str(bundle / "tokenizers" / name) for name in ("text", "image", "speech")}


def engine_of(vocabulary, tie):
    shape = ModelConfig(hidden=32, layers=1, heads=2, key_value_heads=1, max_length=64, tie=tie)
    model = LanguageModel(build_model(shape, vocabulary.size, seed=8))
    return SimpleNamespace(module=model, zero_optimization_stage=lambda: 0)


@pytest.mark.parametrize("tie", [True, False])
def test_what_is_exported_loads_with_its_tokenizers(bundle, directories, tmp_path, tie):
    vocabulary = Vocabulary.load(bundle)
    engine = engine_of(vocabulary, tie)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("of an earlier export")
    with one_process():
        export(engine, tmp_path / "model", vocabulary, directories)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "old.txt").exists()
    loaded = Anyglot.load(tmp_path / "model")
    ours = engine.module.model.state_dict()
    assert ours.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(ours[name], value) for name, value in loaded.model.state_dict().items())
    for name in ("image", "speech"):
        assert loaded.tokenizers[name].fingerprint == load_tokenizer(directories[name]).fingerprint


def test_tokenizers_are_checked_before_training(bundle, directories, tmp_path):
    vocabulary = Vocabulary.load(bundle)
    check_tokenizers(vocabulary, directories)
    check_tokenizers(vocabulary, {})
    with pytest.raises(MismatchError, match="tokenizers.video: the vocabulary has only text, image, speech"):
        check_tokenizers(vocabulary, {**directories, "video": directories["image"]})
    make_tokenizers(seed=3)[0].save_pretrained(tmp_path / "image")
    with pytest.raises(MismatchError, match="the image tokenizer has fingerprint"):
        check_tokenizers(vocabulary, {**directories, "image": str(tmp_path / "image")})
    TextTokenizer.train(["others"] * 20, size=270).save_pretrained(tmp_path / "text")
    with pytest.raises(MismatchError, match="the text tokenizer has fingerprint"):
        check_tokenizers(vocabulary, {**directories, "text": str(tmp_path / "text")})
    with pytest.raises(AnyglotError, match="no tokenizer here"):
        check_tokenizers(vocabulary, {"speech": str(tmp_path / "nothing")})
