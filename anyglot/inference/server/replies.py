"""What a model has written, as content parts for the wire."""

import base64
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyglot.data.documents import Part
from anyglot.inference.server import wire
from anyglot.lm.vocabulary import TEXT
from anyglot.tokenizers.base import Medium, ModalityTokenizer

if TYPE_CHECKING:
    from anyglot.inference.anyglot import Anyglot
    from anyglot.tokenizers.molecules import Molecule
    from anyglot.tokenizers.motion import MotionTokenizer

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
ORDERS = (0, 1, 2, 3, 1.5, 2, 2)  # of the kinds of bonds in `molecules`


def content_part(model: "Anyglot", part: Part) -> wire.TextPart | wire.MediaPart | None:
    """A part for the wire; None for a medium whose codes stand for nothing."""
    if part.type == TEXT:
        return wire.TextPart(type="text", text=part.text or "")
    if part.data is None:
        return None
    tokenizer = model.tokenizers[part.type]
    match part.type:
        case "image":
            url = f"data:image/png;base64,{_file(tokenizer, part.data, '.png')}"
            return wire.ImagePart(type="image_url", image_url=wire.Url(url=url))
        case "speech":
            url = f"data:audio/wav;base64,{_file(tokenizer, part.data, '.wav')}"
            return wire.AudioPart(type="audio_url", audio_url=wire.Url(url=url))
        case "video":
            url = f"data:video/webm;base64,{_file(tokenizer, part.data, '.webm')}"
            return wire.VideoPart(type="video_url", video_url=wire.Url(url=url))
        case "motion":
            return wire.MotionPart(type="motion", motion=_motion(tokenizer, part.data))  # type: ignore[arg-type]
        case "graph":
            return wire.GraphPart(type="graph", graph=_graph(part.data))
        case "item":
            return wire.ItemPart(type="item", item=wire.Item(id=part.data.id, title=part.data.text))
    data = _file(tokenizer, part.data, tokenizer.suffix)
    return wire.FilePart(type="file", file=wire.File(modality=part.type, data=data))


def content_of(model: "Anyglot", parts: list[Part]) -> str | list[wire.ContentPart]:
    """A message's content: a string if there is only text, else parts. What stands for nothing is left out."""
    if all(part.type == TEXT for part in parts):
        return "".join(part.text or "" for part in parts)
    made = (content_part(model, part) for part in parts)
    return [part for part in made if part is not None]


def file_bytes(tokenizer: ModalityTokenizer, medium: Medium, suffix: str) -> bytes:
    """A medium as the file that its tokenizer writes, of the kind that the suffix says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"medium{suffix}"
        tokenizer.write(medium, path)
        return path.read_bytes()


def pcm16(samples: np.ndarray) -> bytes:
    """Float samples in [-1, 1] as 16-bit little-endian integers."""
    return (np.clip(samples, -1.0, 1.0) * 32767).round().astype("<i2").tobytes()


def _file(tokenizer: ModalityTokenizer, medium: Medium, suffix: str) -> str:
    return base64.b64encode(file_bytes(tokenizer, medium, suffix)).decode("ascii")


def _motion(tokenizer: "MotionTokenizer", motion: np.ndarray) -> wire.Motion:
    """Joints where the tokenizer knows its skeleton, features where they cannot be made from joints again."""
    figure, fps = tokenizer.figure, tokenizer.config.fps
    features = None if tokenizer.config.skeleton == "humanml3d" else motion.tolist()
    if figure is None:
        return wire.Motion(fps=fps, features=features)
    joints = np.round(figure.joints(motion).astype(np.float64), 4)
    parents = [-1] * joints.shape[1]
    for start, end, _side in figure.limbs:
        parents[end] = start
    shown: list[list[list[float] | None]] = joints.tolist()
    if figure.seen:
        for frame, joint in np.argwhere(~figure.seen(motion)).tolist():
            shown[frame][joint] = None
    return wire.Motion(fps=fps, parents=parents, joints=shown, features=features)


def _graph(molecule: "Molecule") -> wire.Graph:
    """The structural formula: atoms in the plane, a bond about 1.5 long."""
    from rdkit.Chem import rdDepictor

    from anyglot.tokenizers.molecules import to_rdkit, to_smiles

    mol = to_rdkit(molecule)
    rdDepictor.Compute2DCoords(mol)
    places = mol.GetConformer().GetPositions()[:, :2].round(3).tolist()
    nodes = [wire.Node(label=label, x=x, y=y) for label, (x, y) in zip(_labels(molecule), places, strict=True)]
    edges = [wire.Edge(start=first, end=second, order=ORDERS[kind]) for first, second, kind in molecule.bonds.tolist()]
    return wire.Graph(smiles=to_smiles(molecule), nodes=nodes, edges=edges)


def _labels(molecule: "Molecule") -> list[str]:
    """Each atom as a formula writes it, with its hydrogens and charge: NH₂, O⁻. Carbons are corners, plain "C"."""
    labels = []
    for symbol, (_, charge, hydrogens, _) in zip(molecule.symbols, molecule.atoms.tolist(), strict=True):
        if symbol == "C" and not charge and len(molecule) > 1:
            labels.append(symbol)
            continue
        count = str(hydrogens).translate(SUBSCRIPTS) if hydrogens > 1 else ""
        sign = ("⁺" if charge > 0 else "⁻") * abs(charge)
        labels.append(symbol + ("H" + count if hydrogens else "") + sign)
    return labels
