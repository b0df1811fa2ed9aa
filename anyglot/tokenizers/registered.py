"""Modalities of users: Python files, each named like its modality, that `$ANYGLOT_MODALITIES` lists.

Such a file has what a module of `anyglot.tokenizers` has, and if its tokenizer is trained, what one of
`anyglot.tokenizers.objectives` has. A checkpoint names its modalities, but carries no code, and none is ever run that
this list does not name.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from anyglot.errors import AnyglotError

VARIABLE = "ANYGLOT_MODALITIES"  # paths, separated as in $PATH; processes that this one starts inherit it


def registered() -> dict[str, Path]:
    """Modality -> file."""
    return {Path(entry).stem: Path(entry) for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry}


def register(file: str | Path) -> str:
    """Make a file's modality known to this process and to those that it starts; return the modality's name.

    Raises AnyglotError if there is no such file, or its name is no plain word or that of another modality.
    """
    path = Path(file).resolve()
    if not path.is_file() or path.suffix != ".py" or not path.stem.isidentifier():
        raise AnyglotError(f"{file}: a modality is a Python file named like it, such as tune.py")
    if (Path(__file__).parent / path.name).exists():
        raise AnyglotError(f"{file}: {path.stem!r} is a modality of anyglot's own; name yours otherwise")
    others = registered()
    if others.get(path.stem, path).resolve() != path:
        raise AnyglotError(f"{file}: {VARIABLE} has {others[path.stem]} for {path.stem!r}; keep one of them")
    os.environ[VARIABLE] = os.pathsep.join(str(entry) for entry in {**others, path.stem: path}.values())
    return path.stem


def user_module(modality: str) -> ModuleType | None:
    """The module of a registered file, imported once; None if there is none. Raises AnyglotError if it is gone."""
    path = registered().get(modality)
    if path is None:
        return None
    name = f"anyglot_modality_{modality}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise AnyglotError(f"{path}: no such Python file; mend {VARIABLE}")
        module = module_from_spec(spec)
        sys.modules[name] = module  # before it runs: its dataclasses look themselves up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
