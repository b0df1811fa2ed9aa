"""What the server's tests share: an engine that writes what it is told to, and a server on a port of its own."""

import base64
import io
import threading
import time
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import soundfile
from PIL import Image

from anyglot.errors import AnyglotError
from anyglot.inference.server.app import create_app
from anyglot.inference.server.command import make_server
from anyglot.inference.server.config import ServeConfig
from anyglot.inference.server.service import Service
from anyglot.lm.grammar import Span

KEY = "a-key-of-many-letters"


@dataclass(frozen=True)
class Written:
    ticket: int
    ids: tuple[int, ...]
    finish: str = ""


class ScriptedEngine:
    """Writes for each request the ids that `script` says, one a step, for `slots` requests at a time.

    hold: while it is set, nothing is written.
    """

    def __init__(self, script, slots=8):
        self.script, self.slots = script, slots
        self.hold = threading.Event()
        self.requests, self.cancelled, self.breaks = [], [], False
        self._running, self._queue = {}, deque()

    def submit(self, request):
        if len(request.prompt) > 2000:
            raise AnyglotError("the prompt is too long")
        ticket = len(self.requests)
        self.requests.append(request)
        self._queue.append((ticket, deque(self.script(request)[: request.max_tokens])))
        return ticket

    def cancel(self, ticket):
        self.cancelled.append(ticket)
        self._running.pop(ticket, None)
        self._queue = deque(entry for entry in self._queue if entry[0] != ticket)

    def step(self):
        if self.breaks:
            raise RuntimeError("out of memory")
        while self._queue and len(self._running) < self.slots:
            ticket, ids = self._queue.popleft()
            self._running[ticket] = ids
        if self.hold.is_set():
            time.sleep(0.001)
            return []
        written = []
        for ticket, ids in list(self._running.items()):
            token = ids.popleft()
            if not ids:
                del self._running[ticket]
            written.append(Written(ticket, (token,), "" if ids else "stop"))
        return written

    @property
    def busy(self):
        return bool(self._running or self._queue)

    @property
    def running(self):
        return len(self._running)

    @property
    def waiting(self):
        return len(self._queue)


def script_of(model, text="a <b>red</b> kite"):
    """A picture where one is asked for, a sound where one is, else words and then a picture."""
    rng = np.random.default_rng(0)
    grammar, vocabulary = model.grammar, model.vocabulary
    picture = grammar.serialise_span(Span("image", rng.integers(0, 200, (2, 3, 1)))).tolist()
    sound = grammar.serialise_span(Span("speech", rng.integers(0, 16, (12, 2)))).tolist()
    words = model.text.encode(text)
    end = list(vocabulary.mark("end_of_turn"))

    def script(request):
        by_modality = {("image",): picture, ("speech",): sound, ("text",): [*words, *end]}
        return by_modality.get(request.modalities, [*words, *picture, *words, *end])

    return script


@contextmanager
def running(model, engine, key="", **settings):
    """A server in a thread; gives its address."""
    config = replace(ServeConfig(), port=0, **settings)
    service = Service(model, engine, config, "tiny")
    server = make_server(create_app(service, key), config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()  # or its engine would go on beside other tests


def until(condition, seconds=60.0):
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@contextmanager
def at_most(mib):
    """What is done here never takes more than so much memory beyond what this process has, C's libraries counted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now, whatever ran before
    except OSError as error:
        warnings.warn(f"the peak of memory is not looked at: {error}", stacklevel=3)
        yield
        return
    before = _peak_mib()
    yield
    assert _peak_mib() - before < mib


def _peak_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def ask(address, content="hello", **more):
    """The response to a chat request of one message."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def png(width=12, height=8):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def wav(samples=400, rate=800, channels=1, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal((samples, channels)), rate, format=kind)
    return file.getvalue()


def url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(data):
    return {"type": "image_url", "image_url": {"url": url(data)}}


def audio_part(data):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
