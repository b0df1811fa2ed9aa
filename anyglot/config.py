"""Typed configuration: dataclass defaults, then YAML files, then `key=value` overrides. Strict.

A YAML file may name others with `extends:` (one name or a list); it is merged over them. A name is a
path, a path relative to the file, or a path below the shipped `configs/` folder, with or without `.yaml`.
`null` removes what an extended file sets. `vars:` holds values for `${vars.name}`; they are not passed on.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from anyglot.errors import ConfigError

T = TypeVar("T")


def config_root() -> Path:
    """The folder of shipped configs: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """The file that `name` means. Raises ConfigError that lists where it was looked for."""
    stem = Path(name)
    folders = ([beside] if beside else []) + [Path(), config_root()]
    for folder in folders:
        for candidate in (folder / stem, folder / f"{stem}.yaml"):
            if candidate.is_file():
                return candidate
    known = sorted(str(p.relative_to(config_root()).with_suffix("")) for p in config_root().rglob("*.yaml"))
    raise ConfigError(f"no config {str(name)!r}{_nearest(str(stem.with_suffix('')), known)}")


def load_mapping(source: str | Path, overrides: Sequence[str] = (), beside: Path | None = None) -> dict[str, Any]:
    """Compose a YAML file with what it extends and with `key=value` overrides, as plain Python values."""
    from omegaconf import OmegaConf

    path = find_config(source, beside)
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # yaml and omegaconf raise many types; all mean: this file is not readable
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top level")
    own = cast(dict[str, Any], loaded)
    parents = own.pop("extends", [])
    merged = OmegaConf.create({})
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = cast(Any, OmegaConf.merge(merged, load_mapping(parent, beside=path.parent)))
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r} is not of the form key=value")
    merged = cast(Any, OmegaConf.merge(merged, own, OmegaConf.from_dotlist(list(overrides))))
    try:
        # A parent is composed before its child's `vars` are known, so that they are resolved by the outermost call.
        composed = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=beside is None))
    except Exception as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if beside is None:
        composed.pop("vars", None)
        return cast(dict[str, Any], _without_nulls(composed))
    return composed


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}


def typed(schema: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Make a `schema` dataclass of a mapping.

    Args:
        schema: the dataclass type; nested dataclasses are allowed.
        mapping: plain values, e.g. from `load_mapping`.
        where: what to call the mapping in error messages: a file, or the key it was found under.
    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a missing one, or a wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    prefix = f"{where}: " if where else ""
    _refuse_unknown(schema, mapping, prefix, "")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), dict(mapping))
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise ConfigError(f"{prefix}required key {sorted(missing)[0]!r} is not set")
        return cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{prefix}{key}{str(error).splitlines()[0]}") from error


def load(schema: type[T], source: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a config file with overrides into a `schema` dataclass. See `load_mapping` and `typed`."""
    return typed(schema, load_mapping(source, overrides), where=str(source))


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain values of a config dataclass, fit for JSON and for `typed`."""
    return dataclasses.asdict(config)


def _refuse_unknown(schema: Any, mapping: Mapping[str, Any], prefix: str, path: str) -> None:
    import typing

    hints = typing.get_type_hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]
    for key, value in mapping.items():
        if key not in names:
            raise ConfigError(f"{prefix}unknown key {path + str(key)!r}{_nearest(str(key), names, path)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(hints[key], value, prefix, f"{path}{key}.")


def _nearest(name: str, known: Sequence[str], path: str = "") -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {path + match[0]!r}?" if match else f"; valid: {', '.join(known)}"
