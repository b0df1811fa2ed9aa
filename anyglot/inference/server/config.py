"""What `anyglot serve` can be told, and every limit on what others may ask of it."""

import ipaddress
import os
from dataclasses import dataclass, field, fields

from anyglot.errors import ConfigError
from anyglot.inference.command import GenerateConfig

KEY_VARIABLE = "ANYGLOT_API_KEY"  # not a config field: what is on a command line, every user of the machine can read
SHORTEST_KEY = 16  # characters


@dataclass
class Limits:
    """Whatever exceeds one of these is refused with a 4xx or 503 status before it costs anything.

    Of a request: body_bytes, body_seconds (that its body may take to arrive), values (commas and brackets of its JSON,
    which is read while all others wait), header_bytes, header_seconds, request_seconds (that the answer may take),
    characters (of all its text, that of items among it), parts (of all its messages), n (answers to one prompt),
    max_tokens (of one answer).
    Of all requests together: connections; requests (answers being written or waiting); held_bytes (bodies in memory);
    readers (threads that decode media).
    Of one medium, whatever a tokenizer would take: media_bytes (of its file); image_side, image_pixels (also of
    a frame of a video); sound_seconds,
    sound_samples (all channels counted, whatever rate the file claims); video_frames, video_pixels (of all frames
    together); motion_frames, motion_joints; smiles (characters); nodes.
    """

    body_bytes: int = 16 * 2**20
    body_seconds: float = 60.0
    values: int = 2 * 2**20
    header_bytes: int = 16 * 2**10
    header_seconds: float = 10.0
    request_seconds: float = 600.0
    characters: int = 100_000
    parts: int = 128
    n: int = 8
    max_tokens: int = 8192
    connections: int = 1024
    requests: int = 512
    held_bytes: int = 256 * 2**20
    readers: int = 2
    media_bytes: int = 12 * 2**20
    image_side: int = 8192
    image_pixels: int = 16 * 2**20
    sound_seconds: float = 120.0
    sound_samples: int = 12_000_000
    video_frames: int = 2000
    video_pixels: int = 256 * 2**20
    motion_frames: int = 4096
    motion_joints: int = 64
    smiles: int = 1000
    nodes: int = 256

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) <= 0:
                raise ConfigError(f"limits.{limit.name} is {getattr(self, limit.name)}; it must be above 0")


@dataclass
class ServeConfig(GenerateConfig):
    """What requests leave open, see `GenerateConfig`, and the server's own.

    host, port: to listen at. hosts: names that the server may be called by; empty: those of this machine if it
    listens to this machine alone, else any. name: of the model in requests and replies; empty: the checkpoint's folder.
    chat: False puts every request to the model as a plain document, for one that has never seen a chat. slots: rows
    that are written at once, two for an answer with guidance. length: positions of each, 0: all that the model has;
    memory is set aside for slots * length.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    hosts: list[str] = field(default_factory=list)
    name: str = ""
    chat: bool = True
    slots: int = 8
    length: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port is {self.port}; it must be below 65536")
        if self.slots < 1 or self.length < 0:
            raise ConfigError(f"slots is {self.slots} and length {self.length}; give 1 or more, and 0 or more")
        if self.guidance != 1 and self.slots < 2:
            raise ConfigError(f"guidance={self.guidance:g} takes two rows of each answer; set slots to 2 or more")
        if self.max_tokens > self.limits.max_tokens:
            raise ConfigError(f"max_tokens is {self.max_tokens}, above limits.max_tokens={self.limits.max_tokens}")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # another name
            return False

    @property
    def called(self) -> frozenset[str]:
        """The names that the server answers to; none: any name.

        A server without a key is kept from web pages whose own name was made to lead here (DNS rebinding).
        """
        return frozenset(self.hosts or (["localhost", "127.0.0.1", "[::1]", self.host] if self.local else []))


def api_key(config: ServeConfig) -> str:
    """The key that requests must bring, "" for none. Raises ConfigError if others could reach the server without."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and not config.local:
        raise ConfigError(
            f"host={config.host} lets other machines in; set the environment variable {KEY_VARIABLE} to a key of "
            f"{SHORTEST_KEY} characters or more, or leave host at 127.0.0.1"
        )
    if key and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigError(f"{KEY_VARIABLE} must be {SHORTEST_KEY} or more ASCII characters without blanks")
    return key
