"""The pretrained stage: take over a published codec or picture tokenizer, so that it is a tokenizer directory like any.

Nothing is trained. The source is a local directory or a name on the Hugging Face hub; the result is `out`/tokenizer.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.errors import ConfigError
from anyglot.files import write_json
from anyglot.tokenizers.base import tokenizer_class
from anyglot.train.finished import is_finished

MODULES = {"speech": "pretrained_speech", "image": "pretrained_image"}


@dataclass
class PretrainedStageConfig:
    """Configuration of the stage.

    out: the run's folder. modality: "speech" or "image". source: a directory with config.json and model.safetensors, or
    a name on the Hugging Face hub. revision: of the latter, a branch, tag or commit. tokenizer: fields of
    `PretrainedSpeechConfig` or `PretrainedImageConfig`, its `architecture` above all.
    """

    out: str
    modality: str
    source: str
    tokenizer: dict[str, Any]
    stage: str = "pretrained"
    revision: str = ""


def run(mapping: dict[str, Any], where: str) -> None:
    """Run the stage. Raises AnyglotError if the source cannot be loaded or `out` holds another tokenizer."""
    config = typed(PretrainedStageConfig, mapping, where)
    out = Path(config.out)
    if is_finished(out, config, "tokenizer"):
        return
    if config.modality not in MODULES:
        raise ConfigError(
            f"{where}: modality {config.modality!r} has no published tokenizers; valid: {', '.join(MODULES)}"
        )
    name = MODULES[config.modality]
    kind = tokenizer_class(name)
    settings = typed(kind.config_class, config.tokenizer, f"{where}: tokenizer")
    adopt = importlib.import_module(f"anyglot.tokenizers.{name}").adopt
    tokenizer = adopt(settings, config.source, config.revision)
    tokenizer.save_pretrained(out / "tokenizer")
    write_json(out / "done.json", {"config": to_mapping(config), "fingerprint": tokenizer.fingerprint})
    spec = tokenizer.spec
    rate = f", {spec.rate:g} codes a second" if spec.rate else ""
    print(f"{out / 'tokenizer'}: {config.modality}, {len(spec.levels)} levels of {spec.levels[0]} codes{rate}")
