"""Attention in packed rows: no backend lets documents see each other, and what each is told of them is right."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.lm import attention as module
from anyglot.lm.attention import KERNELS, Attention, additive_mask, block_mask, boundaries, sparse_blocks
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from tests.lm.flash_twin import flash_twin

SMALL = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, pad_vocabulary_to=16)
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7 + [-1] * 2, [0] * 2 + [1] * 11 + [2]])
POSITIONS = torch.cat([torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 1]]),
                       torch.tensor([[0, 1, *range(11), 0]])])  # fmt: skip


@pytest.fixture(params=[*KERNELS, "twin of flash"])
def backend(request, monkeypatch):
    """Every backend that runs on a CPU, and flash with a slow kernel that takes what those of GPUs take."""
    if request.param != "twin of flash":
        return request.param
    monkeypatch.setattr(module, "flash_function", lambda _: ("a twin", flash_twin))
    return "flash"


@st.composite
def packed(draw, longest=400):
    """Document ids of a few rows of one length, padding behind some of them."""
    length = draw(st.integers(1, longest))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        ends = sorted(draw(st.sets(st.integers(1, length), max_size=6)))
        ids = [sum(place >= end for end in ends) for place in range(length)]
        if ids[-1] and draw(st.booleans()):
            ids = [-1 if number == ids[-1] else number for number in ids]
        rows.append(ids)
    return torch.tensor(rows)


def test_block_mask_is_causal_within_documents_only():
    mask = block_mask(torch.tensor([[0, 0, 1, 1]]))
    expected = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    assert torch.equal(mask[0, 0], expected)
    added = additive_mask(torch.tensor([[0, 0, 1, 1]]), torch.bfloat16)
    assert added.dtype == torch.bfloat16
    assert torch.equal(added == 0, mask)
    assert torch.equal(added == -torch.inf, ~mask)


@settings(max_examples=30, deadline=None)
@given(packed())
def test_boundaries_are_where_a_loop_finds_them(document_ids):
    flat, expected = document_ids.tolist(), []
    for row, ids in enumerate(flat):
        for place, document in enumerate(ids):
            if place == 0 or ids[place - 1] != document:
                expected.append(row * len(ids) + place)
    starts, longest = boundaries(document_ids)
    assert starts.tolist() == [*expected, document_ids.numel()]
    assert longest == max(b - a for a, b in pairwise(starts.tolist()))


@settings(max_examples=30, deadline=None)
@given(packed())
def test_sparse_blocks_are_those_of_the_whole_mask(document_ids):
    """Blocks with anything to see, and among them those where all is seen, as torch finds them in the mask itself."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = document_ids.shape

    def sees(row, _head, query, key):
        return (query >= key) & (document_ids[row, query] == document_ids[row, key])

    expected = create_block_mask(sees, rows, None, length, length, device="cpu")
    found = sparse_blocks(document_ids)
    assert torch.equal(found.to_dense().bool(), expected.to_dense().bool())
    assert found.seq_lengths == (length, length)
    seen = block_mask(document_ids)
    number, which = found.full_kv_num_blocks, found.full_kv_indices
    for row, query in torch.cartesian_prod(torch.arange(rows), torch.arange(which.shape[2])).tolist():
        for key in which[row, 0, query, : number[row, 0, query]].tolist():
            assert seen[row, 0, 128 * query : 128 * (query + 1), 128 * key : 128 * (key + 1)].all()
            assert 128 * (query + 1) <= length
    assert int(found.full_kv_num_blocks.sum()) == int(expected.full_kv_num_blocks.sum())


def test_every_kernel_gives_what_the_mask_says(backend):
    """Documents of many lengths, more queries than keys, against softmax written out; gradients where there are any."""
    generator = torch.Generator().manual_seed(0)
    document_ids = torch.tensor([[0] * 130 + [1] * 3 + [2] * 100 + [-1] * 27, [0] * 5 + [1] * 255])
    query, key, value = (torch.randn(2, heads, 260, 16, generator=generator) for heads in (4, 2, 2))
    with torch.set_grad_enabled(backend != "flex"):  # FlexAttention has no backward pass on a CPU
        inputs = [tensor.clone().requires_grad_(backend != "flex") for tensor in (query, key, value)]
        result = KERNELS[backend](document_ids, torch.float32)(*inputs, 0.3, 0.0)
    wanted_inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    k, v = (tensor.repeat_interleave(2, 1) for tensor in wanted_inputs[1:])
    scores = (wanted_inputs[0] @ k.transpose(2, 3) * 0.3).masked_fill(~block_mask(document_ids), -torch.inf)
    wanted = (scores.softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)
    if backend != "flex":
        along = torch.randn(wanted.shape, generator=generator)
        mine = torch.autograd.grad((result * along).sum(), inputs)
        theirs = torch.autograd.grad((wanted * along).sum(), wanted_inputs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_packed_documents_do_not_leak(backend, training):
    """The loss of a packed row is that of its documents alone; changing one leaves the others' bit identical."""
    language_model = LanguageModel(build_model(SMALL, 40, seed=1), attention=Attention(backend)).train(training)
    alone = LanguageModel(build_model(SMALL, 40, seed=1)).train(training)
    ids = torch.randint(40, DOCUMENTS.shape, generator=torch.Generator().manual_seed(0))
    arguments = (POSITIONS, DOCUMENTS, ids.roll(-1, 1), torch.ones(DOCUMENTS.shape))
    with torch.no_grad():
        nll = language_model(ids, *arguments).nll.view(DOCUMENTS.shape)
        for row in range(len(DOCUMENTS)):
            for document in DOCUMENTS[row].unique():
                at = (DOCUMENTS[row] == document).nonzero().squeeze(1)
                own = [tensor[row, at][None] for tensor in (ids, *arguments)]
                torch.testing.assert_close(nll[row, at], alone(*own).nll, rtol=1e-5, atol=1e-5)
                changed = ids.clone()
                changed[row, at] = (changed[row, at] + 1) % 40
                after = language_model(changed, *arguments).nll.view(DOCUMENTS.shape)
                others = torch.ones_like(ids, dtype=torch.bool).index_put((torch.tensor(row), at), torch.tensor(False))
                assert torch.equal(after[others], nll[others])
                assert not torch.equal(after[row, at], nll[row, at])


def test_flash_trains_as_sdpa_does():
    """Loss and gradients of a whole model, with activations recomputed."""
    ids = torch.randint(40, DOCUMENTS.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for backend in ("sdpa", "flash"):
        language_model = LanguageModel(build_model(SMALL, 40, seed=1), attention=Attention(backend))
        language_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = language_model(ids, POSITIONS, DOCUMENTS, ids.roll(-1, 1), torch.ones(DOCUMENTS.shape)).total
        loss.backward()
        gradients.append([parameter.grad for parameter in language_model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_one_mask_serves_all_layers(monkeypatch):
    masks = []
    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *a, attn_mask, **k: masks.append(attn_mask) or sdpa(*a, attn_mask=attn_mask, **k),
    )
    language_model = LanguageModel(build_model(SMALL, 40, seed=1))
    ids = torch.zeros(DOCUMENTS.shape, dtype=torch.long)
    language_model(ids, POSITIONS, DOCUMENTS, ids, torch.ones(DOCUMENTS.shape)).total.backward()
    assert len(masks) == SMALL.layers
    assert masks[0].is_floating_point()  # sdpa would turn a bool one into this, in every layer
    assert len({mask.data_ptr() for mask in masks}) == 1


def test_torch_s_flash_attention_takes_what_it_is_given():
    """Its shapes, on tensors without data: the kernel itself needs a GPU."""
    found = module.flash_function.__wrapped__("cuda")
    if found is None or found[0] != "torch":
        pytest.skip("flash-attn is installed, which has no kernel for tensors without data")
    query, key, value = (
        torch.empty(28, heads, 64, device="meta", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
    )
    starts = torch.zeros(6, dtype=torch.int32, device="meta")
    result = found[1](query, key, value, starts, 11, 0.125)
    assert result.shape == query.shape
    gradients = torch.autograd.grad(result.sum(), (query, key, value))
    assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]


def test_flash_attn_is_taken_where_it_is_installed(monkeypatch):
    import sys
    from types import SimpleNamespace

    calls = []
    package = SimpleNamespace(flash_attn_varlen_func=lambda *a, **k: calls.append((a, k)) or a[0])
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    name, function = module.flash_function.__wrapped__("cuda")
    query, starts = torch.zeros(6, 4, 8), torch.tensor([0, 6], dtype=torch.int32)
    assert name == "flash-attn"
    assert function(query, query, query, starts, 6, 0.5) is query
    (((_, _, _, first, second, *longest), options),) = calls
    assert first is second is starts
    assert longest == [6, 6]
    assert options == {"softmax_scale": 0.5, "causal": True}


def test_generation_and_export_stay_what_they_were(tmp_path):
    """A model that attends by flash in packed rows still takes plain ids and masks, and its checkpoint says nothing."""
    import json

    plain = build_model(SMALL, 40, seed=1).eval()
    model = LanguageModel(build_model(SMALL, 40, seed=1), attention=Attention("flash")).model.eval()
    ids = torch.arange(12).view(2, 6)
    seen = torch.ones(6, 6).tril().bool().expand(2, 1, 6, 6)
    assert torch.equal(model(ids, attention_mask=seen).logits, plain(ids, attention_mask=seen).logits)
    padded = torch.ones(2, 6, dtype=torch.long).index_fill(1, torch.tensor([0, 1]), 0)
    assert torch.equal(model(ids, attention_mask=padded).logits, plain(ids, attention_mask=padded).logits)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    model.save_pretrained(tmp_path)
    assert module.OURS not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


class Deaf(torch.nn.Module):
    """A decoder that keeps what it is told of documents to itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, packed=None, **arguments):
        return self.inner(**arguments)


def test_an_architecture_that_would_leak_is_refused(monkeypatch):
    ids = torch.zeros(DOCUMENTS.shape, dtype=torch.long)
    arguments = (ids, POSITIONS, DOCUMENTS, ids, torch.ones(DOCUMENTS.shape))
    language_model = LanguageModel(build_model(SMALL, 40), attention=Attention("flash"))
    monkeypatch.setattr(language_model.model, "get_decoder", lambda: Deaf(language_model.model.model))
    with pytest.raises(ConfigError, match="Deaf does not tell its layers of documents; set attention=sdpa"):
        language_model(*arguments)
    windowed = LanguageModel(build_model(SMALL, 40))
    windowed.model.config.sliding_window = 13
    windowed(*arguments)  # its layers are all of the other kind
    windowed.model.config.layer_types = ["full_attention", "sliding_attention"]
    windowed.model.model.has_sliding_layers = True
    with pytest.raises(ConfigError, match="qwen3 has sliding_window 13: rows must not be longer; set data.length"):
        windowed(*arguments)
    windowed.model.config.sliding_window = 14
    windowed(*arguments)
    dropping = LanguageModel(
        build_model(ModelConfig(**{**vars(SMALL), "attention_dropout": 0.1}), 40), attention=Attention("flash")
    )
    with pytest.raises(ConfigError, match="attention=flash has no dropout"):
        dropping(*arguments)
    capped = LanguageModel(build_model(SMALL, 40), attention=Attention("flash"))
    for layer in capped.model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda _, a, k: (a, k | {"softcap": 30.0}), with_kwargs=True)
    with pytest.raises(ConfigError, match="Qwen3Attention attends with softcap"):
        capped(*arguments)
