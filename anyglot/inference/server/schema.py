"""Requests and replies on the wire, as OpenAI has them.

A key that is not known is refused, as is any value of a known one that would be ignored.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from anyglot.inference.server.wire import MOST_KEYS, AudioPart, ContentParts, Few, Name, Strict, Text

Seed = Annotated[int, Field(ge=0, lt=2**62)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Scale = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(gt=0, le=1)]
Nought = Annotated[float, Field(ge=0, le=0)]


class ReplyAudio(Strict):
    """OpenAI's, for the first sound of a reply. data: base64 of `format`; transcript: the reply's text."""

    id: str
    data: str
    expires_at: int
    transcript: str


class ChatMessage(Strict):
    """One turn. The keys that are always null are what OpenAI's clients send back with a reply.

    audio: of a reply, whose content has the same sound as a part.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | ContentParts
    audio: ReplyAudio | None = None
    refusal: None = None
    annotations: None = None
    function_call: None = None
    tool_calls: None = None

    @model_validator(mode="after")
    def _audio_is_in_the_content(self) -> Self:
        parts = [] if isinstance(self.content, str) else self.content
        sounds = [part.audio_url.url for part in parts if isinstance(part, AudioPart)]
        if self.audio and self.audio.data not in [sound.partition(",")[2] for sound in sounds]:
            raise ValueError("audio counts only as a part of content, too; send it as an audio_url or input_audio part")
        return self


class Sampling(Strict):
    """See SamplingConfig; what is left open is as the server's settings say."""

    temperature: Scale | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    top_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None


class Extension(Strict):
    """to: write exactly one span of this modality. guidance: scale of classifier-free guidance, 1 for none; null: as
    the server's settings say. sampling: settings of single modalities. tokens: stream ids, too."""

    to: Name | None = None
    guidance: Scale | None = None
    sampling: Annotated[dict[Name, Sampling], Few] = Field(default_factory=dict)
    tokens: bool = False


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class AudioOptions(Strict):
    """OpenAI's; a model has one voice."""

    voice: Literal["default"] = "default"
    format: Literal["wav"] = "wav"


class TextFormat(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    """modalities: which may be written; null: any. The keys with one possible value are OpenAI's, and not supported."""

    model: Name
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    modalities: Annotated[list[Name], Field(min_length=1, max_length=MOST_KEYS, fail_fast=True)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Scale | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    n: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    anyglot: Extension = Extension()
    audio: AudioOptions | None = None
    user: Name | None = None
    response_format: TextFormat | None = None
    frequency_penalty: Nought | None = None
    presence_penalty: Nought | None = None
    logprobs: Literal[False] | None = None
    stop: None = None
    tools: None = None


class ReplyMessage(Strict):
    """content: a string when only text came, else parts."""

    role: Literal["assistant"] = "assistant"
    content: str | ContentParts
    refusal: None = None
    audio: ReplyAudio | None = None


class Usage(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(Strict):
    index: int
    message: ReplyMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatReply(Strict):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ImagesRequest(Strict):
    """size: the model's choice. response_format: "url" gives `data:` URLs."""

    model: Name | None = None
    prompt: Annotated[Text, Field(min_length=1)]
    n: Count | None = None
    seed: Seed | None = None
    response_format: Literal["b64_json", "url"] | None = None
    size: Literal["auto"] | None = None
    quality: Literal["auto"] | None = None
    output_format: Literal["png"] | None = None
    user: Name | None = None
    guidance: Scale | None = None


class ImageData(Strict):
    b64_json: str | None = None
    url: str | None = None


class ImagesReply(Strict):
    created: int
    data: list[ImageData]
    usage: dict[str, int]


class SpeechRequest(Strict):
    """response_format: "pcm" (16 bit, little-endian, mono) comes while it is written."""

    model: Name
    input: Annotated[Text, Field(min_length=1)]
    voice: Literal["default"] = "default"
    response_format: Literal["wav", "flac", "pcm"] = "wav"
    speed: Annotated[float, Field(ge=1, le=1)] = 1
    seed: Seed | None = None


class Transcription(Strict):
    text: str


class ModelCard(Strict):
    """modalities: that it reads and writes, "text" among them."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["anyglot"] = "anyglot"
    modalities: list[str]


class ModelList(Strict):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Strict):
    status: Literal["ok", "failed"]
    running: int
    waiting: int


class Problem(Strict):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: None = None
    code: str | None = None


class ErrorReply(Strict):
    error: Problem
