"""Residual stacks of other quantizers."""

EMA = {"type": "vq", "size": 12}
CLAMPED_FSQ = {"type": "fsq", "sizes": [5, 4, 7], "bound": "clamp"}
LOW_COSINE = {"type": "vq", "size": 12, "width": 3, "metric": "cosine"}
SHARED = {"type": "residual", "levels": 3, "inner": EMA, "shared": True}
CONFIGS = {
    "residual_ema": {"type": "residual", "levels": 3, "inner": EMA},
    "residual_learned": {"type": "residual", "levels": 4, "inner": {**EMA, "codebook": "learned"}},
    "residual_low_cosine": {"type": "residual", "levels": 3, "inner": LOW_COSINE},
    "residual_narrow": {"type": "residual", "levels": 3, "inner": EMA, "width": 4},
    "residual_fsq": {"type": "residual", "levels": 3, "width": 3, "inner": CLAMPED_FSQ},
    "residual_fsq_projected": {"type": "residual", "levels": 2, "inner": {"type": "fsq", "sizes": [5, 4, 7]}},
    "residual_lfq": {"type": "residual", "levels": 3, "inner": {"type": "lfq", "bits": 6}},
    "residual_shared": SHARED,
    "residual_shared_learned": {**SHARED, "inner": {**EMA, "codebook": "learned"}},
    "residual_shared_low_cosine": {**SHARED, "inner": LOW_COSINE},
    "residual_rotation": {"type": "residual", "levels": 3, "inner": EMA, "gradient": "rotation"},
    "residual_beam": {"type": "residual", "levels": 3, "inner": EMA, "beam": 4},
    "residual_beam_lfq": {"type": "residual", "levels": 3, "inner": {"type": "lfq", "bits": 6}, "beam": 4},
}
OWN_GRADIENT = {"residual_rotation"}
