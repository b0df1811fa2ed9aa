"""What an evaluation measured, so that it can be trusted later: every figure with its items, and what it was made of.

`records.json` beside `metrics.json`: the settings, seed and sampling; fingerprints of checkpoint, tokenizers and data;
versions; and of every figure its value, the 95 % bootstrap interval, how many items it is of, how many failed, and each
item's share in it. Two of them are compared item by item.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError
from anyglot.eval.scores import Score
from anyglot.files import write_json

FORMAT = 1
PACKAGES = ("torch", "transformers", "numpy")


@dataclass
class Records:
    """The records of an evaluation.

    settings: its whole config. fingerprints: what it was made of -> hash. scores: figures measured item by item.
    values: the figures that are no sum over items, such as a distance of two sets.
    """

    settings: dict[str, Any]
    fingerprints: dict[str, str]
    scores: dict[str, Score] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    @property
    def metrics(self) -> dict[str, float]:
        """All figures that have a value, under flat names."""
        measured = {name: score.value for name, score in self.scores.items()}
        return self.values | {name: value for name, value in measured.items() if value is not None}

    def save(self, out: str | Path) -> None:
        """Write `records.json` and `metrics.json` into a folder."""
        figures = {}
        for name, score in self.scores.items():
            interval = score.interval()
            about = {"value": score.value, "interval": interval, "n": len(score.ids), "failures": len(score.failed)}
            figures[name] = about | asdict(score)
        record = {
            "format": FORMAT,
            "settings": self.settings,
            "fingerprints": self.fingerprints,
            "versions": self.versions,
            "figures": figures,
            "values": self.values,
        }
        write_json(Path(out) / "records.json", record)
        write_json(Path(out) / "metrics.json", self.metrics)

    @staticmethod
    def load(directory: str | Path) -> "Records":
        """Read the records of an evaluation's folder. Raises AnyglotError that names the file."""
        path = Path(directory) / "records.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise AnyglotError(f"{path}: missing; give the `out` folder of an evaluation") from error
        except (OSError, ValueError) as error:
            raise AnyglotError(f"{path}: cannot be read ({error}); evaluate again") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise AnyglotError(f"{path}: not records of format {FORMAT}; evaluate again")
        try:
            keys = ("ids", "numerators", "denominators", "scale", "failed")
            scores = {
                name: Score(**{key: one[key] for key in keys}, groups=one.get("groups", []))  # the key is younger
                for name, one in found["figures"].items()
            }
            return Records(found["settings"], found["fingerprints"], scores, found["values"], found["versions"])
        except (KeyError, TypeError, AttributeError) as error:
            raise AnyglotError(f"{path}: damaged ({error!r}); evaluate again") from error


def fingerprint_of(files: Iterable[str | Path]) -> str:
    """One hash of files' contents, in this order. Raises AnyglotError naming a file that cannot be read."""
    whole = hashlib.sha256()
    for file in files:
        try:
            with open(file, "rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise AnyglotError(f"{file}: cannot be read ({error.strerror})") from error
    return whole.hexdigest()[:16]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _versions() -> dict[str, str]:
    from anyglot import __version__

    return {"anyglot": __version__, "python": platform.python_version()} | {name: version(name) for name in PACKAGES}
