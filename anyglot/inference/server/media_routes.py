"""OpenAI's routes of one medium each: `/v1/images/generations`, `/v1/audio/speech`, `/v1/audio/transcriptions`."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import PlainTextResponse

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.events import MediaChunk, MediaReady
from anyglot.inference.server import replies, schema
from anyglot.inference.server.chat import usage_of
from anyglot.inference.server.connection import Streamed, while_connected
from anyglot.inference.server.here import Here, as_json, check_model
from anyglot.inference.server.media import decode_media
from anyglot.inference.server.service import Asked, Reply, Service
from anyglot.lm.vocabulary import TEXT

routes = APIRouter()

NOTHING = "the model wrote {} codes that stand for nothing; ask again with another seed"
FIELDS = ("file", "model", "response_format", "temperature", "stream")  # of a transcription
AUDIO_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "pcm": "audio/pcm"}


@routes.post("/v1/images/generations", response_model=schema.ImagesReply)
async def images(body: schema.ImagesRequest, request: Request, service: Here) -> Response:
    """Pictures of what the prompt says."""
    check_model(service, body.model)
    asked = _from_text(service, body.prompt, "image", body.seed)
    asked = replace(asked, n=body.n or 1, guidance=body.guidance)
    written = await _answers(service, asked, request)

    def encoded() -> schema.ImagesReply:
        data = []
        for reply in written:
            picture = _medium(reply, "image")
            png = base64.b64encode(replies.file_bytes(service.model.tokenizers["image"], picture, ".png")).decode()
            url = f"data:image/png;base64,{png}"
            data.append(schema.ImageData(url=url) if body.response_format == "url" else schema.ImageData(b64_json=png))
        usage = usage_of([reply.finish for reply in written])
        tokens = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        return schema.ImagesReply(
            created=int(time.time()), data=data, usage=tokens | {"total_tokens": usage.total_tokens}
        )

    return as_json(await service.decode(encoded))


@routes.post("/v1/audio/speech", response_class=Response, responses={200: {"content": {"audio/wav": {}}}})
async def speech(body: schema.SpeechRequest, request: Request, service: Here) -> Response:
    """A voice that says the input; "pcm" is sent while it is written."""
    check_model(service, body.model)
    asked, kind = _from_text(service, body.input, "speech", body.seed), AUDIO_TYPES[body.response_format]
    if body.response_format == "pcm":
        return Streamed(_pcm(service, asked), kind, service.config.limits.request_seconds)
    (written,) = await _answers(service, asked, request)
    sound, tokenizer = _medium(written, "speech"), service.model.tokenizers["speech"]
    data = await service.decode(partial(replies.file_bytes, tokenizer, sound, f".{body.response_format}"))
    return Response(data, media_type=kind)


@routes.post("/v1/audio/transcriptions", response_model=schema.Transcription)
async def transcriptions(
    file: UploadFile,
    request: Request,
    service: Here,
    model: Annotated[str, Form()],
    response_format: Annotated[Literal["json", "text"], Form()] = "json",
    temperature: Annotated[float, Form(ge=0, le=100, allow_inf_nan=False)] = 0.0,
    stream: Annotated[Literal["false"], Form()] = "false",
) -> Response:
    """The words of a sound."""
    await _check_fields(request)
    check_model(service, model)
    data = await file.read()

    def messages() -> list[Message]:
        sound = decode_media("speech", data, service.model.tokenizers, service.config.limits)
        return [Message("user", [Part("speech", data=sound)])]

    sampling = {TEXT: replace(service.sampling(TEXT), temperature=temperature)}
    (written,) = await _answers(service, Asked(messages, to=TEXT, sampling=sampling), request)
    text = "".join(part.text or "" for part in written.parts)
    if response_format == "text":
        return PlainTextResponse(text)
    return as_json(schema.Transcription(text=text))


async def _check_fields(request: Request) -> None:
    """Raise AnyglotError for a field that would be ignored: one that is not known, or that comes twice."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if name not in FIELDS or names.count(name) > 1:
            raise AnyglotError(f"field {name[:40]!r} is not known, or is there twice; send only: {', '.join(FIELDS)}")


async def _answers(service: Service, asked: Asked, request: Request) -> list[Reply]:
    async with asyncio.timeout(service.config.limits.request_seconds):
        return await while_connected(request.receive, service.replies(asked))


def _from_text(service: Service, text: str, to: str, seed: int | None) -> Asked:
    if len(text) > service.config.limits.characters:
        raise AnyglotError(f"{len(text)} characters; this server reads at most {service.config.limits.characters}")
    return Asked(lambda: [Message("user", [Part(TEXT, text=text)])], to=to, seed=seed or 0)


def _medium(reply: Reply, modality: str) -> Any:
    """The medium that a reply is. Raises MediaError if its codes stand for nothing."""
    found = next((part.data for part in reply.parts if part.type == modality), None)
    if found is None:
        raise MediaError(NOTHING.format(modality))
    return found


async def _pcm(service: Service, asked: Asked) -> AsyncGenerator[bytes]:
    """16-bit samples as they come; all at once from a tokenizer that cannot decode a sound in pieces."""
    chunked = False
    async with aclosing(service.write(asked)) as written:
        async for _, found in written:
            if isinstance(found, MediaChunk):
                chunked = True
                yield replies.pcm16(found.data)
            elif isinstance(found, MediaReady) and found.part.data is None:
                raise MediaError(NOTHING.format("speech"))
            elif isinstance(found, MediaReady) and not chunked:
                yield replies.pcm16(found.part.data)
