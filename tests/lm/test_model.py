"""The language model: its shapes, its first weights, how it is extended, and what is refused."""

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.lm.model import ModelConfig, build_model, extend_model, flops_per_token, initialise_codes
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

SMALL = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, pad_vocabulary_to=16)


def test_same_seed_same_weights_and_rows_are_padded():
    first, second, other = (build_model(SMALL, 40, seed) for seed in (1, 1, 2))
    assert first.get_input_embeddings().weight.shape[0] == 48
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_impossible_shape_is_one_clear_error():
    with pytest.raises(ConfigError, match="multiple of model.heads 4"):
        build_model(ModelConfig(hidden=30, heads=4), 40)


def test_flops_count_every_multiplying_weight_once():
    model = build_model(SMALL, 40)
    weights = sum(p.numel() for p in model.parameters())  # tied: the embedding multiplies once, as the head
    assert flops_per_token(model, 64) == 6 * weights + 12 * 2 * 4 * 8 * 64


def test_embeddings_of_codes_begin_as_like_as_their_codebook_vectors():
    image = CodeSpec("image", (32, 32), (Axis("height", "sized", 4),))
    vocabulary = Vocabulary.build(8, "t", [(image, "i")])
    shape = ModelConfig(hidden=64, layers=1, heads=4, key_value_heads=2)
    model, plain = (build_model(shape, vocabulary.size, seed=1) for _ in range(2))
    codebooks = [torch.randn(32, 5, generator=torch.Generator().manual_seed(level)) + 3 for level in range(2)]
    initialise_codes(model, vocabulary, {"image": codebooks}, seed=0)
    rows, before = (m.get_input_embeddings().weight.detach() for m in (model, plain))
    for level, vectors in enumerate(codebooks):
        block = vocabulary.named_blocks[f"image.{level}"]
        mine = rows[block.start : block.end]
        alike = torch.corrcoef(torch.stack([torch.pdist(mine), torch.pdist(vectors)]))[0, 1]
        assert alike > 0.6
        assert torch.pdist(before[block.start : block.end]).std() < torch.pdist(mine).std()
        assert mine.std() == pytest.approx(float(before.std()), rel=0.1)
    first_code = vocabulary.named_blocks["image.0"].start
    assert torch.equal(rows[:first_code], before[:first_code])
    again = build_model(shape, vocabulary.size, seed=1)
    initialise_codes(again, vocabulary, {"image": codebooks}, seed=0)
    assert torch.equal(again.get_input_embeddings().weight, rows)


@pytest.mark.parametrize("tie", [True, False])
def test_an_extended_model_keeps_what_it_knew(tie):
    model = build_model(ModelConfig(**{**vars(SMALL), "tie": tie}), 40, seed=1).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(ids).logits[..., :40]
        rows = model.get_input_embeddings().weight.clone()
        extend_model(model, 40, 45, seed=1, multiple=16)  # the rows are there already
        assert model.get_input_embeddings().weight.shape == (48, 32)
        assert not torch.equal(model.get_input_embeddings().weight[40:45], rows[40:45])
        extend_model(model, 45, 90, seed=2, multiple=16)
        assert torch.equal(model(ids).logits[..., :40], before)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding.shape == head.shape == (96, 32)
    assert model.config.vocab_size == 96
    assert (embedding.data_ptr() == head.data_ptr()) == tie
    assert torch.equal(embedding[:40], rows[:40])
    assert 0.5 < float((embedding[45:].std() / embedding[:40].std()).detach()) < 2
    with pytest.raises(ConfigError, match="not cut to 80"):
        extend_model(model, 90, 80)


def test_dropout_acts_in_training_alone_and_leaves_the_checkpoint_as_it_is(tmp_path):
    import transformers

    model = build_model(ModelConfig(hidden=32, layers=2, heads=2, dropout=0.5), 40)
    plain = build_model(ModelConfig(hidden=32, layers=2, heads=2), 40)
    ids = torch.arange(12)[None]
    wanted = plain.eval()(ids).logits
    assert torch.equal(model.eval()(ids).logits, wanted)
    model.train()
    torch.manual_seed(0)
    first, second = model(ids).logits, model(ids).logits
    assert not torch.allclose(first, second)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.train()(ids).logits, wanted)
    with pytest.raises(ConfigError, match=r"model.dropout: a share of 0 to 1, got 1"):
        build_model(ModelConfig(dropout=1.0), 40)
    for field in ("dropout", "attention_dropout"):
        with pytest.raises(ConfigError, match="are of models from scratch"):
            build_model(ModelConfig(pretrained=str(tmp_path), **{field: 0.1}), 40)


@pytest.mark.parametrize("tie", [True, False])
def test_the_shape_of_a_pretrained_model_needs_none_of_its_weights(tmp_path, tie):
    whole = build_model(ModelConfig(**{**vars(SMALL), "tie": tie}), 40)
    whole.config.save_pretrained(tmp_path)  # no weights beside it
    shape = build_model(ModelConfig(pretrained=str(tmp_path)), 40, filled=False)
    wanted, found = (
        {name: parameter.shape for name, parameter in model.named_parameters()} for model in (whole, shape)
    )
    assert found == wanted
    with pytest.raises(OSError, match="no file named"):
        build_model(ModelConfig(pretrained=str(tmp_path)), 40)
