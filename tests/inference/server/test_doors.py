"""Ways around the limits that were found once: each is tried here, and refused."""

import asyncio
import base64
import json
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace

import httpx
import pytest
from pydantic import ValidationError

from anyglot.config import typed
from anyglot.errors import MediaError
from anyglot.inference.server import wire
from anyglot.inference.server.config import Limits, ServeConfig
from anyglot.inference.server.connection import EventSource, Streamed
from anyglot.inference.server.media import part_of
from anyglot.inference.server.schema import ChatMessage, ChatRequest
from anyglot.inference.server.service import Service
from anyglot.tokenizers import molecules
from anyglot.tokenizers.motion import MotionConfig, MotionTokenizer
from tests.inference.server.serving import ScriptedEngine, ask, at_most, running, script_of, until, wav
from tests.inference.server.test_guard import HOST, call, guarded

LIMITS = Limits()
TURNS = "CHANNELS 3 Zrotation Xrotation Yrotation"
ROOT = f"HIERARCHY\nROOT hips {{ OFFSET 0 0 0 {TURNS} "
MOTION = "MOTION\nFrames: {}\nFrame Time: 0.05\n"


class Molecules:
    """Stands in for a molecule tokenizer that takes any."""

    def read(self, data):
        return molecules.read(data)


def chat(**more):
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}], **more}).encode()


def file_part(modality, data):
    return {"type": "file", "file": {"modality": modality, "data": base64.b64encode(data).decode()}}


def decoded(part, tokenizers, limits=LIMITS):
    message = {"role": "user", "content": [part]}
    (found,) = ChatMessage.model_validate_json(json.dumps(message)).content
    assert not isinstance(found, str | wire.TextPart)
    return part_of(found, tokenizers, limits).data


@pytest.fixture(scope="module")
def motions():
    network = {"width": 8, "halvings": 1, "blocks": 0}
    mapping = {"network": network, "dim": 4, "quantizer": {"type": "vq", "size": 8, "kmeans_init": False}}
    hierarchy = ROOT + "End Site { OFFSET 0 1 0 } }\n"
    return {"motion": MotionTokenizer(typed(MotionConfig, {**mapping, "features": 11, "hierarchy": hierarchy})).eval()}


def bvh(inner="End Site { OFFSET 0 1 0 }", frames=3, rows=None):
    numbers = "0 0 0\n" * (frames if rows is None else rows)
    return f"{ROOT}{inner} }}\n{MOTION.format(frames)}{numbers}".encode()


def joints(places, frames=1):
    return {"type": "motion", "motion": {"fps": 20, "joints": [[[0, 0, 0]] * places] * frames}}


def test_motions_within_the_limits_come_in_as_files(motions):
    assert decoded(file_part("motion", bvh()), motions).shape[1] == 11


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (file_part("motion", bvh("End Site { " * 100_000 + "} " * 100_000)), "where a limb ends"),
        (file_part("motion", bvh("End Site { JOINT a { OFFSET 0 0 0 } }")), "where a limb ends"),
        (file_part("motion", bvh("JOINT a { } " * 20_000, 20_000)), "more than 4096 joints"),
        (file_part("motion", bvh("JOINT a { } " * 4000, 20_000)), "together above|motion_joints=64"),
        (file_part("motion", bvh("JOINT a { } " * 70)), "motion_joints=64"),
        (file_part("motion", bvh(frames=5000)), "motion_frames=4096"),
        (file_part("motion", bvh(frames=10**12, rows=1)), "motion_frames=4096"),
        (file_part("motion", bvh(f"JOINT {'a' * 1_000_000} {{ {'End Site { } ' * 4000} }}")), "1000000 characters"),
        (file_part("motion", b"HIERARCHY"), "breaks off"),
        (file_part("motion", bvh().partition(b"MOTION")[0]), "no 'Frames:'"),
        (file_part("motion", bvh() + b"\xff"), "not a whole BVH"),
        (joints(65), "motion_joints=64"),
        (joints(1, 4097), "motion_frames=4096"),
    ],
)
def test_hostile_motions_are_refused_at_both_doors(motions, part, message):
    with at_most(mib=300), pytest.raises(MediaError, match=message):
        decoded(part, motions)


@pytest.mark.parametrize("smiles", ["C" * 1001, "C" * 300, "(" * 900, "C\0", "C\nC", "CCO \x1b[2J"])
@pytest.mark.parametrize("door", ["graph", "file"])
def test_hostile_graphs_are_refused_at_both_doors(door, smiles):
    pytest.importorskip("rdkit", reason="pip install 'anyglot[graph]' to test molecules")
    part = file_part("graph", smiles.encode()) if door == "file" else {"type": "graph", "graph": {"smiles": smiles}}
    with pytest.raises(MediaError):
        decoded(part, {"graph": Molecules()})


def test_graphs_come_in_as_files():
    pytest.importorskip("rdkit", reason="pip install 'anyglot[graph]' to test molecules")
    assert len(decoded(file_part("graph", b"CCO\tethanol\n"), {"graph": Molecules()})) == 3
    with pytest.raises(MediaError, match="not a text file"):
        decoded(file_part("graph", b"\xff"), {"graph": Molecules()})


@pytest.mark.parametrize("kind", ["application/json", "application/x+json", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("value", [b",", b"[", b"{", b"&"])
def test_bodies_of_too_many_values_are_not_parsed(kind, value):
    headers = [HOST, ("content-type", kind)] if kind else [HOST]
    assert call(guarded(values=100), headers, [value * 100])[0] == 200
    status, _, body, _ = call(guarded(values=100), headers, [value * 60, value * 41])
    assert status == 413
    assert b"values=100" in body


def test_bytes_of_files_are_no_values():
    assert (
        call(guarded(values=100), [HOST, ("content-type", "Multipart/form-data; boundary=x")], [b"," * 101])[0] == 200
    )


@pytest.mark.parametrize(
    "more",
    [
        {"modalities": ["text"] * 65},
        {"messages": [{"role": "user", "content": [{"type": "graph", "graph": {"smiles": "C", "nodes": [
            {"label": "C", "x": 0.0, "y": 0.0}] * 4097}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "graph", "graph": {"smiles": "C", "edges": [
            {"from": 0, "to": 0, "order": 1.0}] * 8193}}]}]},
    ],
)  # fmt: skip
def test_lists_that_are_not_looked_at_are_short(more):
    with pytest.raises(ValidationError, match="too_long"):
        ChatRequest.model_validate_json(chat(**more))


@pytest.fixture(scope="module")
def address(model):
    with running(model, ScriptedEngine(script_of(model))) as address:
        yield address


def test_a_reply_with_audio_can_be_sent_back_as_it_came(address):
    spoken = ask(address, anyglot={"to": "speech"}).json()["choices"][0]["message"]
    assert spoken["audio"]["data"]

    def again(message):
        return httpx.post(f"{address}/v1/chat/completions", json={"model": "tiny", "messages": [message]})

    assert again(spoken).status_code == 200
    for content in ("words alone", [{"type": "text", "text": "words alone"}], []):
        response = again({**spoken, "content": content})
        assert response.status_code == 400
        assert "audio counts only as a part" in response.json()["error"]["message"]
    assert again({**spoken, "audio": {"id": spoken["audio"]["id"]}}).status_code == 400  # nothing is kept


@pytest.mark.parametrize("more", [{"language": "en"}, {"prompt": "x"}, {"temperature": ["0", "1"]}])
def test_fields_of_forms_that_would_be_ignored_are_refused(address, more):
    def post(form):
        return httpx.post(f"{address}/v1/audio/transcriptions", files={"file": ("a.wav", wav())}, data=form)

    assert post({"model": "tiny", "temperature": "0"}).status_code == 200
    response = post({"model": "tiny", **more})
    assert response.status_code == 400
    assert next(iter(more)) in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["read", "decode"])
def test_clients_that_leave_make_no_room_while_their_work_goes_on(model, kind):
    config = ServeConfig(limits=replace(LIMITS, readers=1))
    begun, done = [], threading.Event()

    def work():
        begun.append(threading.get_ident())
        done.wait(20)

    async def leave():
        service = Service(model, ScriptedEngine(script_of(model)), config, "tiny")
        service.start()
        clients = [asyncio.create_task(getattr(service, kind)(work)) for _ in range(5)]
        while not begun:
            await asyncio.sleep(0.001)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        last = asyncio.create_task(getattr(service, kind)(lambda: len(begun)))
        await asyncio.sleep(0.1)
        assert len(begun) == 1
        assert not last.done()
        done.set()
        assert await last == 1  # and the work of those who left while they waited is not done at all
        await service.stop()

    try:
        asyncio.run(asyncio.wait_for(leave(), 30))
    finally:
        done.set()


def test_connections_that_say_nothing_are_counted(model):
    limits = replace(LIMITS, connections=3)
    with running(model, ScriptedEngine(script_of(model)), limits=limits) as address, ExitStack() as stack:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        silent = [stack.enter_context(socket.create_connection(place)) for _ in range(3)]
        late = stack.enter_context(socket.create_connection(place, timeout=5))  # less than header_seconds
        with suppress(ConnectionError):  # a reset is as good
            assert late.recv(1) == b""
        for connection in silent:
            connection.close()
        until(lambda: httpx.get(f"{address}/health").status_code == 200)


def sent_by(response):
    """What a response sends to a client that stays."""
    sent = []

    async def receive():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    asyncio.run(response({"type": "http"}, receive, send))
    return sent


def slow(closed):
    async def pieces():
        try:
            yield b"data: 1\n\n"
            await asyncio.sleep(3600)
        finally:
            closed.append(True)

    return pieces()


def test_a_stream_that_takes_too_long_says_so():
    closed = []
    start, first, last = sent_by(EventSource(slow(closed), 0.05))
    assert (start["status"], first["body"], first["more_body"]) == (200, b"data: 1\n\n", True)
    assert "took too long" in json.loads(last["body"].removeprefix(b"data: "))["error"]["message"]
    assert not last["more_body"]
    assert closed


def test_a_sound_that_takes_too_long_is_not_whole():
    with pytest.raises(TimeoutError):
        sent_by(Streamed(slow([]), "audio/pcm", 0.05))
