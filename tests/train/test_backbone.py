"""A pretrained backbone taught pictures by LoRA and new rows: what was frozen stays, and others load the result."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from anyglot.data import tokenize
from anyglot.data.documents import Message, Part
from anyglot.errors import ConfigError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.rows import split_rows, whole_state
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train import text_tokenizer
from anyglot.train.lora import LoraConfig, add_lora, has_lora, merged_state, save_adapter
from tests.inference.bundles import make_tokenizers, write_picture
from tests.train.backbones import WORDS, make_backbone
from tests.train.runs import kill_after, log, losses, train, weights

peft = pytest.importorskip("peft", reason="pip install 'anyglot[backbone]' to test LoRA")
ENDS = ["<|endoftext|>", "<|endoftext|>"]


# ---------------------------------------------------------------------- adapters in a model


@pytest.fixture
def adapted(tmp_path):
    """A backbone with new rows and adapters, both moved at random as if they had been trained."""

    def make(tie=True, **settings):
        directory = make_backbone(tmp_path / "backbone", tie)
        model = build_model(ModelConfig(pretrained=str(directory)), 340)
        model.resize_token_embeddings(384, mean_resizing=False)
        split_rows(model, 340)
        add_lora(model, LoraConfig(rank=4, alpha=8, **settings), seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    return make


@pytest.mark.parametrize("tie", [True, False])
def test_peft_and_transformers_load_what_was_trained(adapted, tmp_path, tie):
    import transformers

    model = adapted(tie)
    state = whole_state(model)
    save_adapter(model, state, tmp_path / "adapter")
    model.save_pretrained(tmp_path / "merged", state_dict=merged_state(model, state))
    ids = torch.arange(40, 380, 3)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        merged, report = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "merged", output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        torch.testing.assert_close(merged(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        backbone = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
        backbone.resize_token_embeddings(384, mean_resizing=False)
        assert not torch.allclose(backbone(ids).logits, wanted, atol=1e-2)
        theirs = peft.PeftModel.from_pretrained(backbone, tmp_path / "adapter").eval()
        torch.testing.assert_close(theirs(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        slow = theirs.merge_and_unload()  # peft's own merging
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(tmp_path):
    directory = make_backbone(tmp_path / "backbone")
    model = build_model(ModelConfig(pretrained=str(directory)), 340).eval()
    ids = torch.arange(40)[None]
    wanted = model(ids).logits
    assert not has_lora(model)
    add_lora(model, LoraConfig(rank=4, targets=["q_proj", "v_proj"]), seed=1)
    assert has_lora(model)
    assert torch.equal(model(ids).logits, wanted)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all(".lora_" in name and (".q_proj." in name or ".v_proj." in name) for name in trained)
    again = build_model(ModelConfig(pretrained=str(directory)), 340)
    add_lora(again, LoraConfig(rank=4, targets=["q_proj", "v_proj"]), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_impossible_adapters_are_refused(tmp_path):
    model = build_model(ModelConfig(pretrained=str(make_backbone(tmp_path / "backbone"))), 340)
    with pytest.raises(ConfigError, match="no linear layer 'c_attn'; it has: down_proj, gate_proj, .* v_proj"):
        add_lora(model, LoraConfig(rank=4, targets=["c_attn"]), seed=1)
    with pytest.raises(ConfigError, match="lora: rank must be at least 0"):
        LoraConfig(rank=-1)


# ---------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, and documents of pictures and text as ids of a vocabulary that begins with the backbone's."""
    folder = tmp_path_factory.mktemp("backbone")
    make_backbone(folder / "source")
    mapping = {"stage": "text_tokenizer", "out": str(folder / "text"), "huggingface": str(folder / "source")}
    text_tokenizer.run(mapping | {"document": ENDS}, "test")
    make_tokenizers()[0].save_pretrained(folder / "image")
    lines = []
    for index in range(24):
        text, picture = {"type": "text", "text": WORDS[index % 3]}, {"type": "image", "path": f"{index % 6}.png"}
        write_picture(folder / f"{index % 6}.png", seed=index % 6)
        if index % 4 == 0:
            lines.append({"parts": [text]})
        elif index % 4 == 1:
            lines.append({"parts": [text, picture]})
        else:
            turns = [{"role": "user", "content": [text]}, {"role": "assistant", "content": [picture]}]
            lines.append(
                {"messages": turns if index % 4 == 2 else [turns[0], {"role": "assistant", "content": "a cat"}]}
            )
    (folder / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = {"all": {"files": [str(folder / "documents.jsonl")]}}
    tokenize.run(
        {
            "out": str(folder / "tokens"), "text": str(folder / "text/tokenizer"),
            "tokenizers": {"image": str(folder / "image")}, "sources": sources, "workers": 1,
        }
    )  # fmt: skip
    config = {
        "stage": "pretrain", "out": str(folder / "one"), "precision": "fp32", "steps": 12, "log_every": 1,
        "data": {"stores": {"all": {"path": str(folder / "tokens/all")}}, "length": 96, "rows": 4},
        "heldout": {"all": str(folder / "tokens/all")}, "evaluate_every": 12, "save_every": 5,
        "tokenizers": {"text": str(folder / "text/tokenizer"), "image": str(folder / "image")},
        "model": {"pretrained": str(folder / "source")},
        "new_rows": {"after": str(folder / "source"), "init": "codebook"},
        "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1},
        "engine": {"learning_rate": 1e-2, "new_rows_learning_rate": 3e-2, "weight_decay": 0.0, "zero_stage": 1},
        "schedule": {"kind": "constant", "warmup": 1},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Path:
    """The exported model of a run in a process of its own."""
    train(folder / "config.yaml", 1)
    return folder / "one" / "model"


def test_a_run_learns_and_leaves_the_backbone_alone(folder, model):
    run = folder / "one"
    assert losses(run)[-1] < losses(run)[0] - 0.5
    heldout = [line for line in log(run) if "heldout/all/bits/image" in line]
    assert [line["step"] for line in heldout] == [0, 12], "the start is measured too"
    assert heldout[1]["heldout/all/bits/image"] < heldout[0]["heldout/all/bits/image"]
    before, after = load_file(folder / "source" / "model.safetensors"), weights(run)
    adapted = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "embed" in name:
            assert torch.equal(after[name][:340], value), "old rows, bit for bit"
            assert after[name].shape[0] > 340
        else:
            assert torch.equal(after[name], value) != any(part in name for part in adapted), name


def test_transformers_and_peft_load_the_export_without_us(folder, model):
    import transformers

    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    original = transformers.AutoTokenizer.from_pretrained(folder / "source")
    messages = [{"role": "user", "content": "what is this"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == original.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    answer = transformers.pipeline("text-generation", model=str(model))(
        messages, max_new_tokens=4, do_sample=False, return_full_text=False
    )
    assert isinstance(answer[0]["generated_text"], str)
    backbone = transformers.AutoModelForCausalLM.from_pretrained(folder / "source")
    backbone.resize_token_embeddings(loaded.get_input_embeddings().weight.shape[0], mean_resizing=False)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(backbone, model / "adapter").eval()(ids).logits
        torch.testing.assert_close(theirs, loaded(ids).logits, rtol=1e-4, atol=1e-4)
    further = peft.get_peft_model(loaded, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    further(ids, labels=ids).loss.backward()  # to go on from it with peft


def test_the_harness_loads_the_export_without_us(model, tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="pip install 'anyglot[lm-eval]' to test lm-evaluation-harness")
    words = tmp_path / "words.jsonl"
    words.write_text('{"text": "the quick brown fox"}\n')
    task = {
        "task": "words", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(words)}},
        "test_split": "test", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    found = lm_eval.simple_evaluate("hf", {"pretrained": str(model), "device": "cpu"}, tasks=[task], bootstrap_iters=0)
    assert found["results"]["words"]["bits_per_byte,none"] > 0


def test_it_reads_and_writes_chats_in_the_backbone_s_own_turns(folder, model):
    loaded = Anyglot.load(model)
    text = TextTokenizer.from_pretrained(folder / "text" / "tokenizer")
    said = [Message("user", [Part("text", text="a cat <|im_end|>"), Part("image", path=folder / "0.png")])]
    (reply,) = loaded.write([said], to="image", seed=1)
    assert reply.prompt[: len(text.marks.user)] == list(text.marks.user)
    assert reply.prompt[-len(text.marks.assistant) :] == list(text.marks.assistant)
    assert reply.prompt.count(text.marks.end_of_turn[0]) == 1, "what the user typed ends no turn"
    assert [part.type for part in reply.parts] == ["image"]
    (answer,) = loaded.write([said], to="text", max_tokens=8, seed=1)
    assert set(answer.ids[:-1]).isdisjoint(text.marks.reserved)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_killed_and_resumed_or_in_two_processes_it_is_the_same_run(folder, model, stage):
    out = folder / f"killed-{stage}"
    options = (f"out={out}", f"engine.zero_stage={stage}", "lora.dropout=0")
    kill_after(folder / "config.yaml", out, 7, *options)
    train(folder / "config.yaml", 1, *options)
    train(folder / "config.yaml", 2, f"out={folder / f'two-{stage}'}", *options[1:])
    assert losses(out) == pytest.approx(losses(folder / f"two-{stage}"), rel=1e-3)
    for name, value in weights(out).items():
        torch.testing.assert_close(weights(folder / f"two-{stage}")[name], value, rtol=1e-2, atol=1e-3)
