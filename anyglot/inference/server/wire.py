"""Content parts on the wire: OpenAI's shapes where OpenAI has one, ours where it has none.

A part is the same thing in a request and in a reply, so that a reply can be sent back as it came.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

T = TypeVar("T")


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a character in it (a lone surrogate)") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
Name = Annotated[Text, Field(max_length=256)]


MOST_KEYS = 64  # of an object, and of a mapping from modalities
MOST_NODES = 4096  # of a drawn molecule


def _few(value: T) -> T:
    """Refuse at once what would take an error, and memory for it, per key."""
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise ValueError(f"has more than {MOST_KEYS} keys")
    return value


Few = BeforeValidator(_few)


class Strict(BaseModel):
    """No key that is not known, no NaN, no infinity, no number in a string.

    Lists of it stop at their first mistake, for a request may make millions.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, value: Any) -> Any:
        return _few(value)


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class Url(Strict):
    """url: a `data:` URL in base64; no other is ever fetched."""

    url: str
    detail: Literal["auto"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: Url


class InputAudio(Strict):
    """data: base64. What the bytes are is read from them."""

    data: str
    format: Name | None = None


class InputAudioPart(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioPart(Strict):
    type: Literal["audio_url"]
    audio_url: Url


class VideoPart(Strict):
    type: Literal["video_url"]
    video_url: Url


Point = Annotated[list[float], Field(min_length=3, max_length=3)]
Pose = Annotated[list[Point | None], Field(fail_fast=True)]
Numbers = Annotated[list[float], Field(fail_fast=True)]


class Motion(Strict):
    """joints: `[frames][joints][x, y, z]`, y up; null for one that is not seen. parents: of each joint, -1 for none.

    features: `[frames][features]`, those of the model's motion tokenizer: in replies of models whose features cannot be
    made from joints; in requests they count instead of `joints`.
    """

    fps: Annotated[float, Field(gt=0, le=1000)]
    parents: Annotated[list[int], Field(fail_fast=True)] = Field(default_factory=list)
    joints: Annotated[list[Pose], Field(fail_fast=True)] = Field(default_factory=list)
    features: Annotated[list[Numbers], Field(fail_fast=True)] | None = None


class MotionPart(Strict):
    type: Literal["motion"]
    motion: Motion


class Node(Strict):
    label: Name
    x: float
    y: float


class Edge(Strict):
    """start, end: indices of nodes. order: 1, 2, 3, or 1.5 in an aromatic ring."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[int, Field(alias="from")]
    end: Annotated[int, Field(alias="to")]
    order: float


class Graph(Strict):
    """smiles: the molecule. nodes, edges: how a reply draws it; in requests they are not looked at."""

    smiles: Text
    nodes: Annotated[list[Node], Field(max_length=MOST_NODES, fail_fast=True)] | None = None
    edges: Annotated[list[Edge], Field(max_length=2 * MOST_NODES, fail_fast=True)] | None = None


class GraphPart(Strict):
    type: Literal["graph"]
    graph: Graph


class Item(Strict):
    """id: of the catalogue. title: what it is, in words; with one, an item need not be in the catalogue."""

    id: Name
    title: Text | None = None


class ItemPart(Strict):
    type: Literal["item"]
    item: Item


class File(Strict):
    """A medium of a modality that has no part of its own. data: base64 of a file that its tokenizer reads."""

    modality: Name
    data: str


class FilePart(Strict):
    type: Literal["file"]
    file: File


MediaPart = ImagePart | InputAudioPart | AudioPart | VideoPart | MotionPart | GraphPart | ItemPart | FilePart
ContentPart = Annotated[TextPart | MediaPart, Field(discriminator="type")]
ContentParts = Annotated[list[ContentPart], Field(fail_fast=True)]
