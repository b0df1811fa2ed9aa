"""The contract of a modality tokenizer, and the directory format that all of them share.

A tokenizer directory holds `manifest.json` (modality, config, spec, format version, fingerprint) and
`model.safetensors`. The fingerprint is a hash of both: codes of different fingerprints never mix.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from anyglot import __version__
from anyglot.errors import AnyglotError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.tokenizers.registered import VARIABLE, user_module
from anyglot.tokenizers.spec import CodeSpec

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
Medium = Any  # in memory: a NumPy array where that is natural, else an object with len(), such as a molecule of atoms


@runtime_checkable
class ModalityTokenizer(Protocol):
    """Media to codes and back. The module `anyglot.tokenizers.<modality>` exports its class as `TOKENIZER`.

    Most media are NumPy arrays: a picture is uint8 `[height, width, 3]`, a sound is float32 `[samples]` in
    [-1, 1] at the tokenizer's own sample rate. `encode` takes unequal sizes and gives the same codes
    as one at a time; `decode(encode(x))` has the size of x wherever the codes can tell it.
    """

    modality: ClassVar[str]
    suffix: ClassVar[str]  # of the files that `write` makes: ".png"
    preview_suffix: ClassVar[str]  # of the files that `preview` makes
    inline: ClassVar[bool]  # whether a few words can stand for a file: a SMILES, the id of an item
    fingerprint: str  # "" until saved or loaded

    @property
    def spec(self) -> CodeSpec: ...

    def read(self, source: str | Path | bytes) -> Medium:
        """Decode a file or its bytes; raises MediaError naming the file, or the limit it exceeds."""
        ...

    def write(self, media: Medium, path: str | Path) -> None:
        """Write one medium to a file, atomically."""
        ...

    def preview(self, media: Medium, path: str | Path) -> None:
        """Write what people look at or listen to: a picture, a sound or a film of the medium, or its words."""
        ...

    def encode(self, media: Sequence[Medium]) -> list["Tensor"]:
        """Codes, int64 `[*grid, levels]`, one array per medium."""
        ...

    def decode(self, codes: Sequence["Tensor"]) -> list[Medium]:
        """Media, one per code array. Raises MediaError for codes that stand for nothing."""
        ...

    def codebooks(self) -> list["Tensor"]:
        """The vectors of every level's codes, `[size, dim]`: codes that are alike have vectors that are. Or none."""
        ...

    def known_codes(self) -> "Tensor | None":
        """The codes `[n, levels]` of all media there are, where a modality without axes has others that stand for
        nothing; None where all codes stand for something."""
        ...

    def save_pretrained(self, directory: str | Path) -> None: ...

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "ModalityTokenizer": ...


@runtime_checkable
class StreamingDecoder(Protocol):
    """What a tokenizer has besides if its media can be decoded while their codes come: sounds, films.

    rate: samples or frames of the medium a second.
    """

    @property
    def rate(self) -> float: ...

    def decode_chunk(self, codes: "Tensor", state: Any = None, last: bool = False) -> tuple[Medium, Any]:
        """The next codes of one medium, `[steps, *grid, levels]`, steps >= 0, to what of it they settle.

        state: None at the beginning, then what the call before returned. last: nothing follows. All that is returned
        is the medium, along its first axis; for sounds it is exactly what `decode` gives, however the codes are cut.
        """
        ...


def tokenizer_class(modality: str) -> Any:
    """The class that implements a modality. Raises AnyglotError naming the modality."""
    module: Any = user_module(modality)
    try:
        return (module or importlib.import_module(f"anyglot.tokenizers.{modality}")).TOKENIZER
    except ModuleNotFoundError as error:
        if error.name != f"anyglot.tokenizers.{modality}":
            raise
        raise AnyglotError(
            f"no tokenizer for modality {modality!r}: there is no anyglot/tokenizers/{modality}.py; name the file of a "
            f"modality of your own in the environment variable {VARIABLE}"
        ) from error


def objective_module(modality: str) -> Any:
    """The module that says how a modality's tokenizer is trained: CONFIG, OBJECTIVE, crop, show."""
    return user_module(modality) or importlib.import_module(f"anyglot.tokenizers.objectives.{modality}")


def load_tokenizer(directory: str | Path) -> ModalityTokenizer:
    """Load whatever modality tokenizer a directory holds."""
    manifest = read_manifest(directory)
    kind = tokenizer_class(manifest.get("implementation", manifest["modality"]))
    tokenizer: ModalityTokenizer = kind.from_pretrained(directory)
    return tokenizer


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a tokenizer directory. Raises AnyglotError if there is none or its format is unknown."""
    path = Path(directory) / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(manifest)
    except FileNotFoundError as error:
        raise AnyglotError(
            f"{directory}: no tokenizer here (manifest.json is missing); train one or check the path"
        ) from error
    except ValueError as error:  # not UTF-8, not JSON, or no object
        raise AnyglotError(
            f"{path}: not a tokenizer's manifest; the directory is damaged, restore or retrain it"
        ) from error
    if manifest.get("format") != FORMAT:
        raise MismatchError(
            f"{path}: format {manifest.get('format')!r}, this version reads {FORMAT}; upgrade anyglot or retrain"
        )
    return manifest


def save_directory(
    directory: str | Path,
    modality: str,
    config: Mapping[str, Any],
    spec: CodeSpec,
    tensors: Mapping[str, "Tensor"],
    implementation: str = "",
) -> str:
    """Write a tokenizer directory atomically and return its fingerprint.

    implementation: module of anyglot.tokenizers that reads it, where that is not the one named like the modality.
    """
    from safetensors.torch import save_file

    manifest = {
        "format": FORMAT,
        "modality": modality,
        "config": dict(config),
        "spec": spec.to_json(),
        "anyglot": __version__,
        **({"implementation": implementation} if implementation else {}),
    }
    with atomic_directory(directory) as folder:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors"
        )
        manifest["fingerprint"] = _fingerprint(manifest, folder / "model.safetensors")
        write_json(folder / "manifest.json", manifest)
    return str(manifest["fingerprint"])


def load_directory(directory: str | Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    """Read back what `save_directory` wrote: manifest and tensors. Raises MismatchError if either was altered."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(directory)
    weights = Path(directory) / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (FileNotFoundError, SafetensorError) as error:
        raise AnyglotError(f"{weights}: missing or damaged ({error}); restore or retrain the tokenizer") from error
    if _fingerprint(manifest, weights) != manifest["fingerprint"]:
        raise MismatchError(
            f"{directory}: manifest and weights do not match fingerprint {manifest['fingerprint']}; restore or retrain"
        )
    return manifest, tensors


def _fingerprint(manifest: Mapping[str, Any], weights: Path) -> str:
    described = {
        key: manifest[key] for key in ("format", "modality", "config", "spec", "implementation") if key in manifest
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(weights.read_bytes())
    return digest.hexdigest()[:16]
