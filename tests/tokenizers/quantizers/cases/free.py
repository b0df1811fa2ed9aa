"""FSQ, LFQ and BSQ: no codebook."""

CONFIGS = {
    "fsq": {"type": "fsq", "sizes": [8, 5, 4, 3, 2, 7]},
    "fsq_projected": {"type": "fsq", "sizes": [8, 8, 5]},
    "lfq": {"type": "lfq", "bits": 6},
    "lfq_projected": {"type": "lfq", "bits": 9, "temperature": 1.0},
    "lfq_grouped": {"type": "lfq", "bits": 6, "groups": 2},
    "bsq": {"type": "bsq", "bits": 6},
    "bsq_projected": {"type": "bsq", "bits": 9},
    "bsq_grouped": {"type": "bsq", "bits": 14, "groups": 3},
    "residual_bsq": {"type": "residual", "levels": 3, "inner": {"type": "bsq", "bits": 9}},
}
BOUNDED = {"fsq", "bsq"}
