"""Split rows: the same model, old rows untouched, and one plain checkpoint at the end."""

import pytest
import torch
from torch import nn

from anyglot.errors import ConfigError
from anyglot.lm.loss import BlockwiseCrossEntropy
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.rows import SplitEmbedding, add_rows, split_rows, whole_state
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

TUNE = CodeSpec("tune", (16, 8), (Axis("note", "open", 30),))
OLD = Vocabulary.build(40, "t", [(CodeSpec("image", (16,), (Axis("height", "sized", 4),)), "i")], max_size=8)
NEW = OLD.extend(TUNE, "u")


def small(rows=OLD.size, tie=True, seed=1):
    return build_model(ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, tie=tie), rows, seed)


def batch(rows=2, length=12, ids=NEW.size):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(ids, (rows, length), generator=generator)
    position_ids = torch.arange(length).expand(rows, -1)
    return input_ids, position_ids, torch.zeros_like(input_ids), input_ids.roll(-1, 1), torch.rand(rows, length)


@pytest.mark.parametrize("tie", [True, False])
def test_a_split_model_is_the_model_that_it_was(tie):
    plain, split = small(NEW.size, tie), small(NEW.size, tie)
    names = list(plain.state_dict())
    split_rows(split, OLD.size)
    arguments = batch()
    expected, found = (LanguageModel(model, z_loss=1e-3)(*arguments) for model in (plain, split))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(split(arguments[0]).logits, plain(arguments[0]).logits)
    for loss in (expected, found):
        loss.total.backward()
    for layer in ("input", "output"):
        whole, parts = (getattr(model, f"get_{layer}_embeddings")() for model in (plain, split))
        torch.testing.assert_close(torch.cat([parts.old_rows.grad, parts.new_rows.grad]), whole.weight.grad)
    assert (split.get_input_embeddings().new_rows is split.get_output_embeddings().new_rows) == tie
    state = whole_state(split)
    assert sorted(state) == sorted(names)
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("tie", [True, False])
def test_a_whole_state_saves_as_a_plain_checkpoint(tie, tmp_path):
    import transformers

    model = small(NEW.size, tie)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    split_rows(model, OLD.size)
    model.save_pretrained(tmp_path, state_dict=whole_state(model))
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in expected.items())


def test_a_frozen_head_gets_no_gradient_and_passes_one_on():
    torch.manual_seed(0)
    old, new = nn.Parameter(torch.randn(50, 16), requires_grad=False), nn.Parameter(torch.randn(7, 16))
    hidden = torch.randn(9, 16, requires_grad=True)
    labels, weights = torch.randint(57, (9,)), torch.rand(9)
    nll = nn.functional.cross_entropy(hidden @ torch.cat([old, new]).T, labels, reduction="none")
    expected = torch.autograd.grad((weights * nll).sum(), [hidden, new])
    loss = BlockwiseCrossEntropy(old, rows=4, new_rows=new)(hidden, labels, weights)
    loss.total.backward()
    torch.testing.assert_close([hidden.grad, new.grad], list(expected))
    assert old.grad is None


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("init", ["codebook", "mean", "random"])
def test_added_rows_leave_old_rows_and_logits_as_they_were(init, tie):
    model = small(tie=tie).eval()
    layers = (model.get_input_embeddings, model.get_output_embeddings)
    with torch.no_grad():
        for weight in {id(layer().weight): layer().weight for layer in layers}.values():
            weight += 0.5  # a mean that is not 0, as trained rows have
    rows = [layer().weight.detach().clone() for layer in layers]
    ids = torch.arange(OLD.size)[None]
    with torch.no_grad():
        before = model(ids).logits[..., : OLD.size]
    codebooks = [torch.randn(size, 5, generator=torch.Generator().manual_seed(size)) for size in TUNE.levels]
    others = {"image": [torch.randn(16, 5)]}  # of a modality that is known: not used
    add_rows(model, NEW, OLD.size, init, {"tune": codebooks, **others}, seed=3)
    with torch.no_grad():
        assert torch.equal(model(ids).logits[..., : OLD.size], before)
    for layer, old in zip(layers, rows, strict=True):
        assert torch.equal(layer().weight[: OLD.size], old[: OLD.size])
        new = layer().weight[OLD.size : NEW.size].detach()
        assert float(new.mean()) == pytest.approx(0.0 if init == "random" else 0.5, abs=0.02)
        spread = (old[: OLD.size] - old[: OLD.size].mean(0)).std() * (1 if init == "random" else 0.1)
        assert float((new - new.mean(0)).std() / spread) == pytest.approx(1, abs=0.25)
    block = NEW.named_blocks["tune.0"]
    mine = model.get_input_embeddings().weight[block.start : block.end].detach()
    alike = float(torch.corrcoef(torch.stack([torch.pdist(mine), torch.pdist(codebooks[0])]))[0, 1])
    assert (alike > 0.5) == (init == "codebook")


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match="none is new after 128"):
        split_rows(small(), 128)
    model = small()
    split_rows(model, 50)
    assert isinstance(model.get_input_embeddings(), SplitEmbedding)
    with pytest.raises(ConfigError, match="the embedding is a SplitEmbedding"):
        split_rows(model, 50)
    model = small()
    model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size))
    with pytest.raises(ConfigError, match="a Linear with a bias; only a plain Embedding"):
        split_rows(model, 50)
    with pytest.raises(ConfigError, match="init 'zero' is unknown; valid: codebook, mean, random"):
        add_rows(small(), NEW, OLD.size, "zero")
