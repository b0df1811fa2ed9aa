"""A server that says what a test tells it to, in the wire format of `anyglot serve`: the page is tested against it."""

import base64
import io
import json
import threading
import time
import wave
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

import anyglot

PAGE = Path(anyglot.__file__).parent / "inference" / "server" / "page"
MODALITIES = ["text", "image", "speech", "video", "motion", "graph", "item"]


class StandIn(ThreadingHTTPServer):
    """replies: for each coming request, an iterable of chunks (dict), pauses in seconds (float) or until something is
    set (threading.Event), and broken lines (str); or (status, message) to refuse it. requests: bodies that came.
    left: set once a client hung up in the middle."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list = []
        self.requests: list[dict] = []
        self.left = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(SimpleHTTPRequestHandler):
    server: StandIn

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments, directory=str(PAGE))

    def log_message(self, *_arguments) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": "stand-in", "modalities": MODALITIES}]})
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        reply = self.server.replies.pop(0)
        if isinstance(reply, tuple):
            self._answer(reply[0], {"error": {"message": reply[1], "type": "invalid_request_error"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for chunk in reply:
                if isinstance(chunk, float):
                    time.sleep(chunk)
                    continue
                if isinstance(chunk, threading.Event):
                    chunk.wait(60)
                    continue
                text = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
                for start in range(0, len(text.encode()), 7001):  # cut anywhere, in the middle of letters too
                    self.wfile.write(text.encode()[start : start + 7001])
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()

    def _answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# ---------------------------------------------------------------------- chunks


def text(*deltas: str) -> list[dict]:
    return [{"choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": None}]} for delta in deltas]


def event(name: str, **fields) -> dict:
    return {"choices": [{"index": 0, "delta": {"anyglot": {"event": name, **fields}}, "finish_reason": None}]}


def span(index: int, modality: str, part: dict | None, grid: tuple[int, ...] = ()) -> list[dict]:
    return [
        event("span_start", index=index, modality=modality, grid=grid),
        event("media_ready", index=index, modality=modality, part=part),
    ]


def end(reason: str = "stop", tokens: int = 7) -> list:
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [finish, {"choices": [], "usage": usage}, "data: [DONE]\n\n"]


# ---------------------------------------------------------------------- content parts


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(width: int = 40, height: int = 30) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height), (120, 60, 200)).save(file, "PNG")
    return file.getvalue()


def tone(seconds: float = 0.5, rate: int = 16000) -> np.ndarray:
    """int16 `[samples]`, growing louder."""
    time = np.arange(int(seconds * rate)) / rate
    return (12000 * time / seconds * np.sin(2 * np.pi * 440 * time)).astype("<i2")


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


def film(frames: int = 10, side: int = 48) -> bytes:
    """A square that moves, as .webm. Needs PyAV."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webm") as out:
        stream = out.add_stream("libvpx-vp9", rate=10)
        stream.width = stream.height = side
        for index in range(frames):
            image = np.full((side, side, 3), 30, np.uint8)
            image[8:24, 2 * index : 2 * index + 16] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(image)):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return file.getvalue()


def image_part() -> dict:
    return {"type": "image_url", "image_url": {"url": data_url("image/png", picture())}}


def speech_part(samples: np.ndarray) -> dict:
    return {"type": "audio_url", "audio_url": {"url": data_url("audio/wav", wav(samples))}}


def video_part() -> dict:
    return {"type": "video_url", "video_url": {"url": data_url("video/webm", film())}}


def motion_part(frames: int = 30) -> dict:
    """A pendulum of three joints."""
    swing = np.sin(np.arange(frames) / 5)
    joints = [[[0, 2, 0], [s / 2, 1, s / 4], [float(s), 0.2, s / 2]] for s in swing.tolist()]
    return {"type": "motion", "motion": {"fps": 20, "parents": [-1, 0, 1], "joints": joints}}


def graph_part() -> dict:
    nodes = [{"label": "C", "x": 0, "y": 0}, {"label": "C", "x": 1.3, "y": 0.75}, {"label": "OH", "x": 2.6, "y": 0}]
    edges = [{"from": 0, "to": 1, "order": 1}, {"from": 1, "to": 2, "order": 1}]
    return {"type": "graph", "graph": {"smiles": "CCO", "nodes": nodes, "edges": edges}}


def item_part(title: str = "The Third Man") -> dict:
    return {"type": "item", "item": {"id": "1212", "title": title}}


def motion_file(part: dict) -> bytes:
    return json.dumps(part["motion"]).encode()
