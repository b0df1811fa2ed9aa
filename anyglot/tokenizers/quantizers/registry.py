"""From a config mapping to a quantizer. A family is one module here that exports `CONFIG` and `QUANTIZER`."""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantizer

FAMILIES = (
    "vq",
    "residual",
    "fsq",
    "lfq",
    "bsq",
    "hierarchy",
    "hqa",
    "additive",
    "composite",
    "online_additive",
    "rvq",
    "compq",
    "trq",
    "qinco",
    "soft",
    "sq_vae",
    "hyperbolic",
    "product",
    "pq",
    "lopq",
    "ptq",
    "online_pq",
    "deep_pq",
    "dopq",
    "hihpq",
    "dpq",
    "grouped",
)


def build(mapping: Mapping[str, Any], dim: int, where: str = "quantizer") -> Quantizer:
    """Make the quantizer that a config describes, e.g. `{"type": "fsq", "sizes": [8, 8, 8, 5]}`.

    Args:
        mapping: its family under "type"; the other keys are the fields of that family's config dataclass.
        dim: width of the vectors that it takes and returns.
        where: what to call the mapping in error messages.
    Raises:
        ConfigError: an unknown family or key, or a value that the family cannot work with.
    """
    options = dict(mapping)
    family = options.pop("type", None)
    if family not in FAMILIES:
        match = get_close_matches(str(family), FAMILIES, n=1)
        hint = f"did you mean {match[0]!r}?" if match else f"valid: {', '.join(FAMILIES)}"
        raise ConfigError(f"{where}.type: no quantizer {family!r}; {hint}")
    if dim < 1:
        raise ConfigError(f"{where}: a quantizer needs vectors of width 1 or more, got {dim}")
    module = importlib.import_module(f"anyglot.tokenizers.quantizers.{family}")
    quantizer: Quantizer = module.QUANTIZER(typed(module.CONFIG, options, where), dim, where)
    return quantizer
