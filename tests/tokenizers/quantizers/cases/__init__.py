"""Small configs for the contract suite, one module per family. `MODULES` lists them; test_quantizers.py runs them all.

A module exports `CONFIGS`, name -> config for vectors of width `DIM`, and may export sets of names:
    BOUNDED: the gradient is the identity behind `bound` (tanh, normalisation), not behind the input.
    OWN_GRADIENT: the gradient is another one than straight-through (rotation, Gumbel-softmax).
    SOFT: in training the vectors are not those of the chosen codes alone.
"""

from importlib import import_module

DIM = 6
MODULES = (
    "vq",
    "free",
    "residual",
    "rvq",
    "additive",
    "soft",
    "stochastic",
    "product",
    "hierarchy",
    "hyperbolic",
    "grouped",
)
_modules = [import_module(f"tests.tokenizers.quantizers.cases.{name}") for name in MODULES]
CONFIGS = {name: config for module in _modules for name, config in module.CONFIGS.items()}
BOUNDED, OWN_GRADIENT, SOFT = (
    {name for module in _modules for name in getattr(module, what, ())} for what in ("BOUNDED", "OWN_GRADIENT", "SOFT")
)
