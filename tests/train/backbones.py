"""What the tests of pretrained backbones share: a tiny Hugging Face language model with tokenizer and chat template."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_end|>' + message['content'] + "
    "'</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unused>"]
WORDS = [
    "the quick brown fox jumps over the lazy dog",
    "user and assistant and system say what is this",
    "a black cat, a green apple and an old house on a hill",
] * 5


def make_tokenizer(folder: Path, template: str = CHATML, size: int = 340) -> Path:
    """A Hugging Face tokenizer directory: byte-level BPE, ids 0 to 5 special, with a chat template."""
    import transformers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def make_backbone(folder: Path, tie: bool = True, seed: int = 0) -> Path:
    """A Llama of 2 layers with random weights, as transformers saves it, and the tokenizer of `make_tokenizer`."""
    import torch
    import transformers

    make_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=340, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tie, initializer_range=0.1,
            bos_token_id=1, eos_token_id=2, pad_token_id=2,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
