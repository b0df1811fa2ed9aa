"""Text to ids and back, exactly: sentencepiece BPE trained in place, or any Hugging Face tokenizer.

Every id spells a fixed run of bytes, so decoding is joining bytes, and the text of two encodings joined is the
two texts joined. Nothing that a user types means anything: control and special tokens of the underlying
tokenizer are ids that `encode` never gives, and "<s>" or "<image>" are just characters.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from anyglot import __version__
from anyglot.errors import AnyglotError, ConfigError, MediaError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.tokenizers.base import FORMAT, read_manifest
from anyglot.tokenizers.marks import Marks, chat_marks
from anyglot.tokenizers.text_engines import huggingface_engine, sentencepiece_engine

FILES = {"sentencepiece": "sentencepiece.model", "huggingface": "tokenizer.json"}
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ENGINES = {"sentencepiece": sentencepiece_engine, "huggingface": huggingface_engine}
WORDS = re.compile(r"\s*\S{1,16}|\s+")  # the unit that is spelled in bytes where a tokenizer cannot say it


class TextTokenizer:
    """Exact text tokenizer. Make one with `train`, `from_huggingface` or `from_pretrained`.

    size: ids are 0 .. size - 1. fingerprint: a hash of what it was made of; ids of different ones never mix.
    marks: the control ids among them that stand around documents and turns; None: the vocabulary has its own.
    companions: with marks, the other files of the Hugging Face tokenizer, such as its chat template, by name.
    """

    modality: ClassVar[str] = "text"

    def __init__(
        self, kind: str, model: bytes, marks: Marks | None = None, companions: Mapping[str, bytes] | None = None
    ) -> None:
        """kind: "sentencepiece" or "huggingface". model: the content of the tokenizer's file."""
        self.kind = kind
        self.model = model
        self.engine = ENGINES[kind](model)
        self.marks = marks
        self.companions = dict(companions or {})
        self.fingerprint = _fingerprint(kind, model, marks)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self.engine.spelling)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; `decode` gives exactly it back.

        Raises MediaError for a lone surrogate: half a character, which no file can hold.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MediaError(f"text holds a lone surrogate (half a character) at character {error.start}") from error
        return self._exact(text, data) or [token for piece in WORDS.findall(text) for token in self._spelt(piece)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, which only a model writes, become U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", errors="replace")

    def to_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of ids: what a stream decodes piece by piece, since a character may span ids."""
        spelling = self.engine.spelling
        return b"".join([spelling[token] for token in ids])

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a tokenizer directory atomically: manifest.json and the tokenizer's own file."""
        manifest = {
            "format": FORMAT,
            "modality": self.modality,
            "config": {"kind": self.kind},
            "size": self.size,
            **({"marks": self.marks.to_json()} if self.marks else {}),
            "anyglot": __version__,
            "fingerprint": self.fingerprint,
        }
        with atomic_directory(directory) as folder:
            self.write_files(folder)
            write_json(folder / "manifest.json", manifest)

    def write_files(self, folder: Path) -> None:
        """Write the tokenizer's own file and its companions: with these the folder is a Hugging Face tokenizer."""
        for name, content in {FILES[self.kind]: self.model, **self.companions}.items():
            (folder / name).write_bytes(content)

    @staticmethod
    def from_pretrained(directory: str | Path) -> "TextTokenizer":
        """Load what `save_pretrained` wrote. Raises MismatchError if it was altered."""
        manifest = read_manifest(directory)
        kind = manifest.get("config", {}).get("kind")
        if manifest.get("modality") != "text" or kind not in FILES:
            raise MismatchError(f"{directory}: not a text tokenizer but {manifest.get('modality')!r}; check the path")
        path = Path(directory) / FILES[kind]
        try:
            model = path.read_bytes()
        except FileNotFoundError as error:
            raise AnyglotError(f"{path}: missing; restore or retrain the tokenizer") from error
        try:
            marks = Marks.from_json(manifest["marks"]) if "marks" in manifest else None
        except (TypeError, AttributeError) as error:
            raise AnyglotError(f"{directory}: its manifest's marks are damaged; restore the tokenizer") from error
        found = _fingerprint(kind, model, marks)
        if found != manifest.get("fingerprint"):  # before it is parsed: a damaged one would not even parse
            raise MismatchError(
                f"{directory}: says fingerprint {manifest.get('fingerprint')}, its files give {found}; "
                f"restore or retrain the tokenizer"
            )
        return TextTokenizer(kind, model, marks, _companions(Path(directory)) if marks else {})

    @staticmethod
    def from_huggingface(directory: str | Path, document: Sequence[str] = ()) -> "TextTokenizer":
        """Take over the tokenizer of a Hugging Face directory, ids unchanged.

        Args:
            document: the tokens that begin and end a document in the text that its model was trained on. Given, the
                tokenizer gets marks: these, and those that its chat template puts around turns.
        Raises:
            AnyglotError: it loses text. ConfigError: `document` or the chat template give no marks.
        """
        path = Path(directory) / FILES["huggingface"]
        try:
            tokenizer = TextTokenizer("huggingface", path.read_bytes())
            if document:
                reserved = [token for token in tokenizer.engine.forbidden if 0 <= token < tokenizer.size]
                marks = chat_marks(directory, document, reserved)
                return TextTokenizer("huggingface", tokenizer.model, marks, _companions(path.parent))
            return tokenizer
        except FileNotFoundError as error:
            raise AnyglotError(
                f"{path}: not there; load it with transformers' AutoTokenizer and write it with save_pretrained"
            ) from error
        except ConfigError:
            raise
        except AnyglotError as error:
            raise AnyglotError(f"{path}: {error}") from error

    @staticmethod
    def train(texts: Iterable[str], size: int, character_coverage: float = 0.9995) -> "TextTokenizer":
        """Train sentencepiece BPE of `size` ids; equal texts give the equal tokenizer.

        Args:
            texts: any strings; pieces do not reach over line ends.
            character_coverage: share of all characters that get pieces of their own; the rest is spelled in bytes.
        Raises:
            AnyglotError: too little text for so many ids, or a size that leaves none beside the 256 bytes.
        """
        import sentencepiece

        lines = [line for text in texts for line in text.splitlines() if line]
        model = BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=size + 1,  # sentencepiece insists on <unk>, which byte fallback never uses
                byte_fallback=True,
                character_coverage=character_coverage,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_digits=True,
                max_sentence_length=max(map(len, lines), default=0) * 4 + 1,  # bytes; longer lines would be dropped
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise AnyglotError(
                f"{size} text ids cannot be trained from {sum(map(len, lines))} characters: "
                f"{' '.join(str(error).split())[-160:]}"
            ) from error
        return TextTokenizer("sentencepiece", model.getvalue())

    def __reduce__(self) -> tuple[Any, ...]:  # for worker processes: the engine is made anew of the model's bytes
        return TextTokenizer, (self.kind, self.model, self.marks, self.companions)

    def _exact(self, text: str, data: bytes) -> list[int]:
        """The underlying tokenizer's ids, or none if they are not exactly these bytes or hold a forbidden id."""
        ids = self.engine.encode(text)
        return ids if self.to_bytes(ids) == data and self.engine.forbidden.isdisjoint(ids) else []

    def _spelt(self, piece: str) -> list[int]:
        data = piece.encode("utf-8")
        return self._exact(piece, data) or [self.engine.byte_ids[byte] for byte in data]


def _companions(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in COMPANIONS if (directory / name).is_file()}


def _fingerprint(kind: str, model: bytes, marks: Marks | None) -> str:
    described = json.dumps(marks.to_json(), sort_keys=True) if marks else ""
    return hashlib.sha256(f"{FORMAT} {kind} {described}".encode() + model).hexdigest()[:16]


TOKENIZER = TextTokenizer
