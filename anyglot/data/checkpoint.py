"""A trained model's directory as data preparation and later stages see it: its vocabulary and its tokenizers."""

import json
from dataclasses import dataclass
from pathlib import Path

from anyglot.errors import AnyglotError
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import read_manifest

TOKENIZERS = "tokenizers"  # folder in a checkpoint directory: text/ and one per modality


@dataclass
class CheckpointParts:
    """What lies beside a model's weights. tokenizers: "text" or modality -> directory."""

    directory: Path
    vocabulary: Vocabulary
    tokenizers: dict[str, str]


def read_checkpoint(directory: str | Path) -> CheckpointParts:
    """The parts of a directory that `anyglot train` exported, or of the run that holds it as `model`.

    Raises:
        AnyglotError: no model there, or no text tokenizer. MismatchError: parts that do not belong together.
    """
    root = Path(directory)
    root = root / "model" if (root / "model").is_dir() else root
    try:
        described = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnyglotError(
            f"{root}: no model here (config.json cannot be read); give a run's `model` folder"
        ) from error
    vocabulary = Vocabulary.load(root)
    vocabulary.require(described.get("anyglot_vocabulary", vocabulary.fingerprint), str(root / "config.json"))
    there = {name: root / TOKENIZERS / name for name in vocabulary.modality_names}
    tokenizers = {name: str(path) for name, path in there.items() if path.is_dir()}
    if TEXT not in tokenizers:
        raise AnyglotError(f"{there[TEXT]}: no text tokenizer here; export the model with `tokenizers.text`")
    vocabulary.check({name: read_manifest(path)["fingerprint"] for name, path in tokenizers.items()})
    return CheckpointParts(root, vocabulary, tokenizers)
