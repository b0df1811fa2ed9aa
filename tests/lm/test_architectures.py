"""The switches of stability: each makes a plain Hugging Face model that trains, packs and generates as it should."""

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.inference.decoder import Decoder
from anyglot.inference.reading import PlainReader
from anyglot.lm.grammar import Grammar
from anyglot.lm.model import LanguageModel, ModelConfig, build_model, extend_model
from anyglot.lm.vocabulary import Vocabulary

SIZE = {"hidden": 32, "layers": 2, "heads": 4, "key_value_heads": 2, "pad_vocabulary_to": 16, "max_length": 64}
KINDS = {
    "Qwen3ForCausalLM": {},
    "LlamaForCausalLM": {"qk_norm": False},
    "Olmo2ForCausalLM": {"norm": "post"},
    "Gemma3ForCausalLM": {"norm": "sandwich", "logit_softcap": 0.5},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make(kind, size=40, sharpness=1.0, **settings):
    model = build_model(ModelConfig(**SIZE, **KINDS[kind], **settings), size, seed=1)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharpness)
    return model


def packed(size=40):
    ids = torch.randint(size, (1, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    return ids, positions, torch.tensor([[0] * 5 + [1] * 7]), ids.roll(-1), torch.ones(1, 12)


def test_the_checkpoint_is_that_architecture_and_its_loss_is_ours(kind, tmp_path):
    """In packed rows, of each document alone: the leakage test of every architecture."""
    import transformers

    model = make(kind, sharpness=20.0)
    model.save_pretrained(tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain).__name__ == kind
    batch = packed()
    ours = LanguageModel(model)(*batch).nll
    theirs = []
    for where in (slice(0, 5), slice(5, 12)):
        logits = plain(batch[0][:, where]).logits[0]
        theirs.append(torch.nn.functional.cross_entropy(logits, batch[3][0, where], reduction="none"))
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-4, atol=1e-4)
    if "logit_softcap" in KINDS[kind]:
        assert plain(batch[0]).logits.abs().max() <= 0.5


def test_generation_sees_the_logits_of_the_plain_model(kind):
    """With the cache, rows of unequal length, and the head cut to a block."""
    vocabulary = Vocabulary.build(40, "t")
    model = make(kind, vocabulary.size, sharpness=20.0).eval()
    decoder, reader = Decoder(model, Grammar(vocabulary)), PlainReader(model, 2, 16)
    ids = packed()[0][0]
    with torch.inference_mode():
        reader.read([0, 1], [ids[:4].tolist(), ids[4:6].tolist()])
        hidden = reader.read([0, 1], [ids[6:8].tolist(), ids[8:10].tolist()])
        for row, whole in enumerate((torch.cat([ids[:4], ids[6:8]]), torch.cat([ids[4:6], ids[8:10]]))):
            logits = model(whole[None]).logits[0, -1]
            torch.testing.assert_close(decoder.logits(hidden[row], 3, 30), logits[3:30], rtol=1e-4, atol=1e-4)


def test_it_learns_and_drops_out_in_training_alone(kind):
    language_model = LanguageModel(make(kind, dropout=0.2, attention_dropout=0.2))
    language_model.eval()
    wanted = LanguageModel(make(kind))(*packed()).nll
    assert torch.equal(language_model(*packed()).nll, wanted)
    language_model.train()
    torch.manual_seed(0)
    assert not torch.allclose(language_model(*packed()).nll, language_model(*packed()).nll)
    optimizer = torch.optim.AdamW(language_model.parameters(), lr=3e-3)
    for _ in range(20):
        loss = language_model(*packed()).total
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in language_model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    language_model.eval()
    assert language_model(*packed()).nll.mean() < wanted.mean() - 0.1


@pytest.mark.parametrize("tie", [True, False])
def test_it_can_be_extended(kind, tie):
    model = make(kind, tie=tie).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(ids).logits[..., :40]
        extend_model(model, 40, 90, seed=2, multiple=16)
        assert torch.equal(model(ids).logits[..., :40], before)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"norm": "after"}, "model.norm is 'after'; valid: pre, post, sandwich"),
        ({"norm": "post", "qk_norm": False}, "post without model.qk_norm is no architecture .* set qk_norm: true"),
        ({"norm": "sandwich", "qk_norm": False}, "sandwich without model.qk_norm is no architecture"),
        ({"logit_softcap": 30.0}, "model.logit_softcap with model.norm: pre is no architecture .* set norm: sandwich"),
        ({"norm": "post", "logit_softcap": 30.0}, "model.logit_softcap with model.norm: post is no architecture"),
        ({"norm": "sandwich", "logit_softcap": -1.0}, "model.logit_softcap must be 0 or more, not -1.0"),
    ],
)
def test_switches_that_no_architecture_has_together_are_refused(switches, message):
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(**SIZE, **switches), 40)


def test_a_pretrained_model_brings_its_cap_and_takes_no_switches(tmp_path):
    make("Gemma3ForCausalLM", sharpness=20.0).save_pretrained(tmp_path)
    language_model = LanguageModel(build_model(ModelConfig(pretrained=str(tmp_path)), 40))
    assert language_model.loss.softcap == 0.5
    for switches in ({"qk_norm": False}, {"norm": "post"}, {"logit_softcap": 30.0}):
        with pytest.raises(ConfigError, match="model.qk_norm, model.norm and model.logit_softcap are of models from"):
            build_model(ModelConfig(pretrained=str(tmp_path), **switches), 40)


def test_a_pretrained_model_whose_logits_are_scaled_is_refused(tmp_path):
    import transformers

    shape = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 64, "pad_token_id": None}
    config = transformers.GraniteConfig(**shape, logits_scaling=8.0, initializer_range=0.5)
    transformers.GraniteForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the logits of GraniteForCausalLM are more than its output head"):
        build_model(ModelConfig(pretrained=str(tmp_path)), 40)
