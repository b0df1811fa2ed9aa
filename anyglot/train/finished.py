"""Whether a run is finished: `done.json`, written last, says with which config it was made."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping
from anyglot.errors import AnyglotError, MismatchError


def is_finished(out: Path, config: Any, what: str) -> bool:
    """Whether `out` holds the finished result of this very config, so that nothing is left to do.

    what: the result, for the message. Raises MismatchError if it holds that of another config.
    """
    done = out / "done.json"
    if not done.exists():
        return False
    try:
        made_with = json.loads(done.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise AnyglotError(f"{done}: damaged; delete it, and the run is made again") from error
    changed = [
        name
        for name, value in to_mapping(config).items()
        if made_with.get(name, value if value == _default(config, name) else None) != value  # the field may be younger
    ]
    if changed:
        raise MismatchError(f"{out} holds a {what} made with another {changed[0]!r}; give another `out`, or delete it")
    return True


def _default(config: Any, name: str) -> Any:
    """The default of a field of a config, MISSING if it has none."""
    (found,) = [field for field in fields(config) if field.name == name]
    return found.default if found.default_factory is MISSING else found.default_factory()
