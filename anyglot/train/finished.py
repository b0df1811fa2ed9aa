"""Whether a run is finished: `done.json`, written last, says with which config it was made, or after how many steps."""

import json
import logging
import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping
from anyglot.errors import AnyglotError, MismatchError
from anyglot.train.checkpoint import steps_of

logger = logging.getLogger(__name__)


def is_finished(out: Path, config: Any, what: str) -> bool:
    """Whether `out` holds the finished result of this very config, so that nothing is left to do; if so, it is said.

    what: the result, for the message. Raises MismatchError if it holds that of another config.
    """
    done = out / "done.json"
    if not done.exists():
        return False
    made_with = _read(done, "config", "and the run is made again")
    changed = [
        name
        for name, value in to_mapping(config).items()
        if made_with.get(name, value if value == _default(config, name) else None) != value  # the field may be younger
    ]
    if changed:
        raise MismatchError(f"{out} holds a {what} made with another {changed[0]!r}; give another `out`, or delete it")
    _say(f"{out} is finished; delete it to make the {what} again")
    return True


def has_steps(out: Path, wanted: int) -> bool:
    """Whether `out` holds a finished run of `wanted` steps or more, so that nothing is left to do; if so, it is said.

    wanted: 0 where a time budget or epochs say how long the run is, which then cannot be made longer. Raises
    AnyglotError if it is shorter, and the checkpoints to go on from are gone.
    """
    done = out / "done.json"
    if not done.exists():
        return False
    steps = int(_read(done, "steps", "and the run goes on from its newest checkpoint"))
    if wanted <= steps:
        longer = "ask for more `steps` to go on, or " if wanted else ""
        _say(f"{out} is finished, with {steps} steps; {longer}delete it to train again")
        return True
    if not steps_of(out / "checkpoints"):
        raise AnyglotError(f"{out} is finished, with {steps} steps, and its checkpoints are gone; give another `out`")
    return False


def _read(done: Path, key: str, otherwise: str) -> Any:
    try:
        return json.loads(done.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise AnyglotError(f"{done}: damaged; delete it, {otherwise}") from error


def _say(line: str) -> None:
    """Once, however many processes the command runs in."""
    if int(os.environ.get("RANK", "0")) == 0:
        logger.warning("%s", line)


def _default(config: Any, name: str) -> Any:
    """The default of a field of a config, MISSING if it has none."""
    (found,) = [field for field in fields(config) if field.name == name]
    return found.default if found.default_factory is MISSING else found.default_factory()
