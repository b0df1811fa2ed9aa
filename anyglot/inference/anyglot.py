"""A trained model with all it needs to read and write media: language model, vocabulary, grammar, tokenizers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, MediaError, MismatchError
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.events import Event, EventStream
from anyglot.inference.maskgit import is_maskgit
from anyglot.inference.sampling import SamplingConfig
from anyglot.inference.trie import Trie
from anyglot.lm.depth import DepthTransformer, has_depth
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.streams import factor
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import Medium, ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.text import TextTokenizer

TOKENIZERS = "tokenizers"  # folder in a checkpoint directory: text/ and one per modality


@dataclass
class Reply:
    """What a model wrote after `prompt`: its ids and the parts they are. A part of a medium has `data` and `codes`."""

    prompt: list[int]
    ids: list[int]
    parts: list[Part]


class Anyglot:
    """Reads and writes documents. Make one with `load`.

    Args:
        model: a Hugging Face causal LM over the vocabulary's ids.
        vocabulary, text, tokenizers: which belong together; one tokenizer for every modality of the vocabulary.
        sampling: settings per modality, "text" among them.
        depth: the transformer over levels, if the vocabulary has `depth` streams.
    Raises:
        MismatchError: they do not belong together, or a tokenizer or the depth transformer is missing.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        text: TextTokenizer,
        tokenizers: Mapping[str, ModalityTokenizer],
        sampling: Mapping[str, SamplingConfig] | None = None,
        depth: DepthTransformer | None = None,
    ) -> None:
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < vocabulary.size:
            raise MismatchError(
                f"the model has {rows} ids, its vocabulary {vocabulary.size}; they do not belong together"
            )
        vocabulary.check({TEXT: text.fingerprint} | {name: t.fingerprint for name, t in tokenizers.items()})
        for name in vocabulary.modality_names[1:]:
            if name not in tokenizers:
                raise MismatchError(f"the vocabulary has modality {name!r}, but no tokenizer for it was given")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.grammar = Grammar(vocabulary)
        self.text = text
        self.tokenizers = dict(tokenizers)
        catalogues = _catalogues(vocabulary, tokenizers)
        self.decoder = Decoder(self.model, self.grammar, sampling, catalogues=catalogues, depth=depth)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: torch.device | str = "cpu",
        sampling: Mapping[str, SamplingConfig] | None = None,
    ) -> "Anyglot":
        """Load a checkpoint directory, as `anyglot train` writes it under `<out>/model`.

        Raises:
            AnyglotError: a piece is missing. MismatchError: the pieces do not belong together.
        """
        directory = Path(directory)
        if is_maskgit(directory):
            raise AnyglotError(
                f"{directory} holds a masked transformer, no language model; it writes with `anyglot generate --text`"
            )
        if not (directory / "config.json").is_file():
            raise AnyglotError(f"{directory}: no model here (config.json is missing); give a run's `model` folder")
        vocabulary = Vocabulary.load(directory)
        text = TextTokenizer.from_pretrained(directory / TOKENIZERS / TEXT)
        tokenizers = {name: load_tokenizer(directory / TOKENIZERS / name) for name in vocabulary.modality_names[1:]}
        for tokenizer in tokenizers.values():
            if isinstance(tokenizer, torch.nn.Module):
                tokenizer.to(device)
        model = _load_model(directory).to(device)
        made_with = getattr(model.config, "anyglot_vocabulary", vocabulary.fingerprint)
        vocabulary.require(made_with, str(directory / "model.safetensors"))
        depth = DepthTransformer.load(directory).to(model.device, model.dtype) if has_depth(vocabulary) else None
        return cls(model, vocabulary, text, tokenizers, sampling, depth)

    def encode(self, parts: Sequence[Part]) -> list[Span]:
        """Parts as spans of codes. Raises MediaError or MismatchError naming the part."""
        return [Span(part.type, self._codes(part)) for part in parts]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids to go on from: a plain document without its end, or a chat up to where the assistant speaks."""
        ids = self.grammar.serialise([Turn(message.role, self.encode(message.parts)) for message in messages]).ids
        chat = bool(messages) and messages[0].role is not None
        end = len(self.vocabulary.mark("eos"))
        return [*ids[:-end].tolist(), *(self.vocabulary.mark("assistant") if chat else [])]

    def request(
        self, messages: Sequence[Message], to: str | None, max_tokens: int, seed: int, guidance: float = 1.0
    ) -> Request:
        """What to ask the decoder for; see `write`. Raises MismatchError for a modality that the model lacks."""
        self.check_target(to)
        return Request(
            self.prompt(messages),
            modalities=None if to is None else (to,),
            spans=int(to not in (None, TEXT)),
            max_tokens=max_tokens,
            seed=seed,
            guidance=guidance,
        )

    def check_target(self, to: str | None) -> None:
        """Raise MismatchError for a modality that the model lacks."""
        if to is not None and to not in self.vocabulary.modality_names:
            raise MismatchError(f"this model writes no {to!r}; it knows: {', '.join(self.vocabulary.modality_names)}")

    def write(
        self,
        prompts: Sequence[Sequence[Message]],
        to: str | None = None,
        max_tokens: int = 2048,
        seed: int = 0,
        guidance: float = 1.0,
    ) -> list[Reply]:
        """Go on from every prompt, all at once.

        Args:
            to: a modality: write exactly one span of it ("text": text alone, up to the end). None: anything.
            max_tokens: past these, what is open is brought to its end.
            seed: prompt i draws from seed + i, whatever stands beside it.
            guidance: how far media follow the prompt; 1: as the model does. See `anyglot.inference.guidance`.
        """
        requests = [
            self.request(messages, to, max_tokens, seed + index, guidance) for index, messages in enumerate(prompts)
        ]
        return [
            Reply(request.prompt, ids, self.read(request.prompt, ids))
            for request, ids in zip(requests, self.decoder.write(requests), strict=True)
        ]

    def stream(
        self,
        messages: Sequence[Message],
        to: str | None = None,
        max_tokens: int = 2048,
        seed: int = 0,
        guidance: float = 1.0,
    ) -> Iterator[Event]:
        """Go on from one prompt, and tell of what is written while it is: the same as `write` gives, as events.

        The prompt is read, and refused if it must be, before the first event is asked for.
        """
        request = self.request(messages, to, max_tokens, seed, guidance)
        return self._events(request, EventStream(self, request.prompt))

    def _events(self, request: Request, events: EventStream) -> Iterator[Event]:
        for step in self.decoder.steps([request]):
            for written in step:
                yield from events.feed(written.ids)
                if written.finish:
                    yield from events.finish(written.finish)

    def read(self, prompt: Sequence[int], ids: Sequence[int]) -> list[Part]:
        """The parts that `ids` after `prompt` are, media decoded; `data` is None where codes stand for nothing.

        Raises GrammarError for ids that are no document.
        """
        events = EventStream(self, prompt)
        events.feed(ids)
        events.finish("stop")
        return events.parts

    def _codes(self, part: Part) -> np.ndarray:
        if part.type == TEXT:
            return np.array(self.text.encode(part.text or ""), dtype=np.int64)
        tokenizer = self.tokenizers.get(part.type)
        if tokenizer is None:
            raise MediaError(
                f"this model reads no {part.type!r}; it knows: {', '.join(self.vocabulary.modality_names)}"
            )
        if part.codes is not None:
            if part.tokenizer not in ("", tokenizer.fingerprint):
                raise MismatchError(
                    f"{part.type} codes were made by tokenizer {part.tokenizer}, this model's is "
                    f"{tokenizer.fingerprint}; give the medium itself"
                )
            return part.codes
        codes: np.ndarray = tokenizer.encode([media_of(tokenizer, part)])[0].numpy()
        return codes


def _catalogues(vocabulary: Vocabulary, tokenizers: Mapping[str, ModalityTokenizer]) -> dict[str, Trie]:
    """The codes that there are, of modalities where others stand for nothing."""
    found = {}
    for name, tokenizer in tokenizers.items():
        codes = tokenizer.known_codes()
        if codes is not None:
            modality = vocabulary.modality(name)
            found[name] = Trie(factor(codes.numpy(), modality.spec.levels, modality.factors))
    return found


def media_of(tokenizer: ModalityTokenizer, part: Part) -> Medium:
    """A part's medium in memory, read with its tokenizer. Raises MediaError naming the file."""
    if part.in_memory:
        return part.data
    source = part.path if part.path is not None else part.data
    if source is None:
        raise MediaError(f"a part of modality {part.type!r} has neither a file nor data")
    return tokenizer.read(source)


def _load_model(directory: Path) -> Any:
    """The language model of a directory, every weight of it out of the file. Raises AnyglotError."""
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()  # of loading a single file
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AnyglotError(f"{directory}: the model cannot be loaded ({reason}); restore or export it again") from error
    if report["missing_keys"]:  # transformers would draw them at random
        name = sorted(report["missing_keys"])[0]
        raise AnyglotError(f"{directory}: its model.safetensors lacks {name}; restore or export it again")
    return model
