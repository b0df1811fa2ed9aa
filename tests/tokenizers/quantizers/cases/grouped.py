"""Codes in groups, chosen by the first channels."""

EMA = {"type": "vq"}
CONFIGS = {
    "grouped": {"type": "grouped", "sizes": [9, 5, 4], "inner": EMA},
    "grouped_learned": {"type": "grouped", "sizes": [12, 6], "inner": {**EMA, "codebook": "learned"}},
}
