"""A quantizer alone in a directory: `quantizer.json` (type, options, width of its vectors) and `model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.tokenizers.quantizers.base import Quantizer
from anyglot.tokenizers.quantizers.registry import build

FORMAT = 1


def save(quantizer: Quantizer, mapping: Mapping[str, Any], directory: str | Path) -> None:
    """Write a quantizer that was built from `mapping`, atomically."""
    from safetensors.torch import save_file

    with atomic_directory(directory) as folder:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in quantizer.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        write_json(folder / "quantizer.json", {"format": FORMAT, "dim": quantizer.dim, "quantizer": dict(mapping)})


def load(directory: str | Path) -> Quantizer:
    """Read a quantizer back, in evaluation mode.

    Raises:
        AnyglotError: there is none, or its files are damaged. MismatchError: a format that this version cannot read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(directory)
    try:
        described = json.loads((folder / "quantizer.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise AnyglotError(f"{folder}: no quantizer here (quantizer.json is missing); check the path") from error
    except ValueError as error:
        raise AnyglotError(f"{folder / 'quantizer.json'}: damaged; restore it or train the quantizer again") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        raise MismatchError(
            f"{folder}: quantizer.json has format {found!r}, this version reads {FORMAT}; upgrade anyglot or retrain"
        )
    quantizer = build(described["quantizer"], described["dim"], str(folder))
    try:
        quantizer.load_state_dict(load_file(folder / "model.safetensors"))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise AnyglotError(f"{folder / 'model.safetensors'}: missing or damaged ({reason}); train it again") from error
    return quantizer.eval()
