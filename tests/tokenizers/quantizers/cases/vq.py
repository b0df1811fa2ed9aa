"""VQ: one codebook, hard assignment; every source of codes, gradient, reset and kind of regulariser."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

_folder = tempfile.TemporaryDirectory()  # removed when the tests end
FEATURES = Path(_folder.name) / "features.safetensors"
save_file({"train": torch.randn(60, 4, generator=torch.Generator().manual_seed(5))}, FEATURES)

EMA = {"type": "vq", "size": 12}
LEARNED = {"type": "vq", "size": 12, "codebook": "learned"}
LOW_COSINE = {"type": "vq", "size": 12, "width": 3, "metric": "cosine"}
FIXED = {"type": "vq", "size": 24, "kmeans_init": False, "reset_below": 0.0}
PROJECTED = {
    "type": "vq", "size": 24, "codebook": "projected", "reset_below": 0.0,
    "features": str(FEATURES), "feature_width": 4,
}  # fmt: skip
ONLINE = {"kmeans_init": False, "decay": 0.9, "reset_below": 0.05}
CONFIGS = {
    "vq_ema": EMA,
    "vq_ema_plain": {**EMA, "kmeans_init": False, "reset_below": 0.0},
    "vq_ema_narrow": {**EMA, "width": 3},
    "vq_ema_cosine": {**EMA, "metric": "cosine"},
    "vq_learned": LEARNED,
    "vq_learned_cosine": {**LEARNED, "metric": "cosine"},
    "vq_learned_low_cosine": {**LOW_COSINE, "codebook": "learned"},
    "vq_ema_low_cosine": LOW_COSINE,
    "vq_frozen": {**FIXED, "codebook": "frozen"},
    "vq_linear": {**FIXED, "codebook": "linear"},
    "vq_linear_low_cosine": {**FIXED, "codebook": "linear", "metric": "cosine", "width": 3},
    "vq_projected": PROJECTED,
    "vq_affine": {**LEARNED, "codebook": "affine"},
    "vq_affine_plain": {**LEARNED, "codebook": "affine", "kmeans_init": False, "reset_below": 0.0},
    "vq_rotation": {**LEARNED, "gradient": "rotation"},
    "vq_linear_rotation": {**FIXED, "codebook": "linear", "gradient": "rotation", "width": 3},
    "vq_cosine_rotation": {**LOW_COSINE, "gradient": "rotation"},
    "vq_split": {**EMA, "reset": "split"},
    "vq_learned_split": {**LEARNED, "reset": "split"},
    "vq_closest": {**LEARNED, "reset": "closest", **ONLINE},
    "vq_random": {**LEARNED, "reset": "random", **ONLINE},
    "vq_probabilistic": {**LEARNED, "reset": "probabilistic", **ONLINE},
    "vq_ema_closest": {**EMA, "reset": "closest", **ONLINE},
    "vq_affine_closest": {**LEARNED, "codebook": "affine", "reset": "closest", **ONLINE},
    "vq_entropy": {**LEARNED, "regulariser": {"kind": "entropy"}},
    "vq_ema_entropy_rotation": {**EMA, "regulariser": {"kind": "entropy"}, "gradient": "rotation"},
}
BOUNDED = {"vq_ema_cosine", "vq_learned_cosine"}
OWN_GRADIENT = {name for name, config in CONFIGS.items() if config.get("gradient") == "rotation"}
