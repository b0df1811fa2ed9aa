"""FSQ and LFQ: no codebook."""

CONFIGS = {
    "fsq": {"type": "fsq", "sizes": [8, 5, 4, 3, 2, 7]},
    "fsq_projected": {"type": "fsq", "sizes": [8, 8, 5]},
    "lfq": {"type": "lfq", "bits": 6},
    "lfq_projected": {"type": "lfq", "bits": 9, "temperature": 1.0},
}
BOUNDED = {"fsq"}
