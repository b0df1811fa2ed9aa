"""Codes of a graph's nodes: a few small integers each, in a folder that anybody can read.

`codes.safetensors` has `codes` int64 [nodes, levels]; `codes.json` the size of each level, names of the nodes if they
have any, and which system made the codes of what.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyglot.errors import AnyglotError, MismatchError
from anyglot.files import atomic_directory, write_json
from anyglot.tokenizers.quantizers.anchors import CodeReport, report

FORMAT = 1


@dataclass(frozen=True)
class NodeCodes:
    """codes: int64 [nodes, levels]. levels: codebook size of each level. names: of the nodes, or empty.
    made: what is worth knowing of their making, plain values."""

    codes: Tensor
    levels: tuple[int, ...]
    names: tuple[str, ...] = ()
    made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.levels) or self.codes.is_floating_point():
            raise AnyglotError(f"expected codes [nodes, {len(self.levels)}], got {list(self.codes.shape)}")
        if bool(((self.codes < 0) | (self.codes >= torch.tensor(self.levels))).any()):
            raise AnyglotError(f"codes must lie in codebooks of {list(self.levels)} codes")
        if self.names and len(self.names) != len(self.codes):
            raise AnyglotError(f"{len(self.names)} names for {len(self.codes)} nodes")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def tokens(self) -> Tensor:
        """The same with a range of its own for each level, int64 [nodes, levels] below sum(levels)."""
        starts = torch.tensor((0, *self.levels[:-1])).cumsum(0)
        return self.codes + starts

    def report(self) -> CodeReport:
        """How well the codes tell nodes apart."""
        return report(self.tokens.numpy())

    def save(self, directory: str | Path) -> None:
        """Write the folder, atomically."""
        from safetensors.torch import save_file

        with atomic_directory(directory) as folder:
            save_file({"codes": self.codes.contiguous()}, folder / "codes.safetensors")
            described = {"format": FORMAT, "levels": list(self.levels), "names": list(self.names), "made": self.made}
            write_json(folder / "codes.json", described)

    @classmethod
    def load(cls, directory: str | Path) -> "NodeCodes":
        """Read what `save` wrote. Raises AnyglotError if it is missing, damaged or of another format."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(directory)
        try:
            described = json.loads((folder / "codes.json").read_text("utf-8"))
            if described["format"] != FORMAT:
                found = described["format"]
                raise MismatchError(f"{folder}: codes.json has format {found!r}, this version reads {FORMAT}")
            codes = load_file(folder / "codes.safetensors")["codes"]
            return cls(codes, tuple(described["levels"]), tuple(described["names"]), described["made"])
        except FileNotFoundError as error:
            raise AnyglotError(f"{folder}: no node codes here (codes.json, codes.safetensors)") from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise AnyglotError(f"{folder}: damaged node codes ({error}); make them again") from error
