"""`/v1/chat/completions`: conversations with every medium in and out, whole or streamed."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, assert_never

from fastapi import APIRouter, Request, Response

from anyglot.data.documents import ROLES, Message
from anyglot.errors import AnyglotError
from anyglot.inference.events import Event, Finish, MediaChunk, MediaReady, SpanStart, TextDelta
from anyglot.inference.sampling import SamplingConfig
from anyglot.inference.server import replies, schema, wire
from anyglot.inference.server.connection import EventSource, event, while_connected
from anyglot.inference.server.here import Here, as_json, check_model
from anyglot.inference.server.media import part_of
from anyglot.inference.server.service import Asked, Reply, Service, Tokens
from anyglot.lm.vocabulary import TEXT

routes = APIRouter()

SPOKEN = {"audio": "speech"}  # OpenAI's name -> ours
AUDIO_KEPT = 0  # seconds: replies are not kept, and cannot be named by `audio.id` later


@routes.post("/v1/chat/completions", response_model=schema.ChatReply)
async def chat(body: schema.ChatRequest, request: Request, service: Here) -> Response:
    """Go on with a conversation. With `stream`, server-sent events: see docs/serve.md."""
    check_model(service, body.model)
    asked, seconds = asked_of(service, body), service.config.limits.request_seconds
    if body.stream:
        return EventSource(_chunks(service, asked, body), seconds)
    async with asyncio.timeout(seconds):
        written = await while_connected(request.receive, service.replies(asked))
        return as_json(await service.decode(partial(_reply, service, written)))


def asked_of(service: Service, body: schema.ChatRequest) -> Asked:
    """What a request asks for. Raises AnyglotError for what is beyond a limit, or contradicts itself."""
    limits = service.config.limits
    contents = [message.content for message in body.messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    texts = [content for content in contents if isinstance(content, str)]
    characters = sum(map(len, texts)) + sum(map(_characters, parts))
    if len(parts) + len(texts) > limits.parts or characters > limits.characters:
        raise AnyglotError(
            f"{len(parts) + len(texts)} parts with {characters} characters; this server reads at most "
            f"{limits.parts} with {limits.characters}"
        )
    if body.max_tokens and body.max_completion_tokens:
        raise AnyglotError("give max_completion_tokens or max_tokens, not both")
    to = body.anyglot.to and SPOKEN.get(body.anyglot.to, body.anyglot.to)
    return Asked(
        messages=partial(_messages, service, body),
        modalities=tuple(dict.fromkeys(SPOKEN.get(name, name) for name in body.modalities or ())) or None,
        to=to,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        seed=body.seed or 0,
        n=body.n or 1,
        sampling=_sampling(service, body),
        guidance=body.anyglot.guidance,
        tokens=body.anyglot.tokens,
    )


def _characters(part: wire.ContentPart) -> int:
    """What of a part is text for a tokenizer to read: media are held against limits of their own."""
    match part:
        case wire.TextPart():
            return len(part.text)
        case wire.ItemPart():
            return len(part.item.id) + len(part.item.title or "")
        case wire.FilePart(file=wire.File(modality="item")):
            return len(part.file.data) * 3 // 4  # bytes of its JSON
        case _:
            return 0


def _messages(service: Service, body: schema.ChatRequest) -> list[Message]:
    tokenizers, limits = service.model.tokenizers, service.config.limits
    return [
        Message(ROLES[message.role], [part_of(part, tokenizers, limits) for part in _parts(message.content)])
        for message in body.messages
    ]


def _parts(content: str | list[wire.ContentPart]) -> Sequence[wire.ContentPart]:
    return [wire.TextPart(type="text", text=content)] if isinstance(content, str) else content


def _sampling(service: Service, body: schema.ChatRequest) -> dict[str, SamplingConfig]:
    """The settings that a request gives: `temperature` and `top_p` of all modalities, then those of single ones."""
    general = schema.Sampling(temperature=body.temperature, top_p=body.top_p).model_dump(exclude_none=True)
    own = {
        SPOKEN.get(name, name): settings.model_dump(exclude_none=True)
        for name, settings in body.anyglot.sampling.items()
    }
    names = dict.fromkeys((*(service.modalities if general else ()), *own))
    return {name: replace(service.sampling(name), **(general | own.get(name, {}))) for name in names}


def _reply(service: Service, written: Sequence[Reply]) -> schema.ChatReply:
    return schema.ChatReply(
        id=_new_id("chatcmpl"),
        created=int(time.time()),
        model=service.name,
        choices=[
            schema.Choice(index=index, message=_message(service, reply), finish_reason=_reason(reply.finish))
            for index, reply in enumerate(written)
        ],
        usage=usage_of([reply.finish for reply in written]),
    )


def _message(service: Service, reply: Reply) -> schema.ReplyMessage:
    sounds = [part for part in reply.parts if part.type == "speech" and part.data is not None]
    audio = None
    if sounds:
        data = replies.file_bytes(service.model.tokenizers["speech"], sounds[0].data, ".wav")
        audio = schema.ReplyAudio(
            id=_new_id("audio"),
            data=base64.b64encode(data).decode("ascii"),
            expires_at=int(time.time()) + AUDIO_KEPT,
            transcript="".join(part.text or "" for part in reply.parts if part.type == TEXT),
        )
    return schema.ReplyMessage(content=replies.content_of(service.model, reply.parts), audio=audio)


def usage_of(finishes: Sequence[Finish]) -> schema.Usage:
    """Ids of a prompt, and of all answers to it."""
    prompt, written = finishes[0].prompt_tokens, sum(finish.written_tokens for finish in finishes)
    return schema.Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


async def _chunks(service: Service, asked: Asked, body: schema.ChatRequest) -> AsyncGenerator[bytes]:
    """The chunks of a streamed reply as server-sent events."""
    head = {
        "id": _new_id("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": service.name,
    }
    finishes: list[Finish] = []
    begun: set[int] = set()
    async with aclosing(service.write(asked)) as written:
        async for index, found in written:
            if isinstance(found, MediaChunk) and found.modality != "speech":
                continue  # a player takes whole films
            delta = await _delta(service, found)
            if index not in begun:
                begun.add(index)
                delta = {"role": "assistant", **delta}
            reason = _reason(found) if isinstance(found, Finish) else None
            finishes += [found] if isinstance(found, Finish) else []
            yield event(head | {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]})
    if body.stream_options and body.stream_options.include_usage:
        yield event(head | {"choices": [], "usage": usage_of(finishes).model_dump()})
    yield event("[DONE]")


async def _delta(service: Service, found: Event | Tokens) -> dict[str, Any]:
    """What a chunk says of an event: OpenAI's `content` for text, `anyglot` for all else."""
    match found:
        case TextDelta(text=text):
            return {"content": text}
        case SpanStart():
            own = {"event": "span_start", "index": found.index, "modality": found.modality, "grid": list(found.grid)}
        case MediaChunk():
            own = {"event": "media_chunk", "index": found.index, "modality": found.modality}
            own |= {"sample_rate": found.rate, "pcm16": base64.b64encode(replies.pcm16(found.data)).decode("ascii")}
        case MediaReady():
            part = await service.decode(partial(replies.content_part, service.model, found.part))
            shown = part.model_dump(by_alias=True, exclude_none=True) if part else None
            own = {"event": "media_ready", "index": found.index, "modality": found.part.type, "part": shown}
        case Tokens():
            own = {"event": "tokens", "ids": list(found.ids), "kinds": list(found.kinds)}
        case Finish():
            return {}
        case _:
            assert_never(found)
    return {"anyglot": own}


def _reason(finish: Finish) -> Literal["stop", "length"]:
    return "length" if finish.reason == "length" else "stop"


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"
