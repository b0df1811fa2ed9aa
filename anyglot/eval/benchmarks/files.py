"""Reading the files of benchmarks: errors name the file, and the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError


def read_text(path: str | Path) -> str:
    """A UTF-8 file's text. Raises AnyglotError naming the file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnyglotError(f"{path}: cannot be read ({error})") from error


def read_json(path: str | Path) -> Any:
    """A JSON file's value. Raises AnyglotError naming the file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise AnyglotError(f"{path}: not JSON ({error})") from error


def read_json_lines(path: str | Path, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line of a JSON lines file stands ("file:3"), and its object, which has all `keys`; empty lines are
    passed over. Raises AnyglotError naming the line."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise AnyglotError(f"{path}:{number}: not JSON ({error})") from error
        missing = [key for key in keys if not isinstance(value, dict) or key not in value]
        if missing:
            raise AnyglotError(f"{path}:{number}: an object with {missing[0]!r} is needed here")
        yield f"{path}:{number}", value
