"""Residual quantizers that are fitted offline."""

RVQ = {"type": "rvq", "size": 12, "levels": 3}
QINCO = {"type": "qinco", "size": 12, "levels": 3, "hidden": 8, "epochs": 2}
CONFIGS = {
    "rvq": RVQ,
    "rvq_beam": {**RVQ, "beam": 3},
    "rvq_stacked": {**RVQ, "refine": "stacked", "sweeps": 2},
    "rvq_subspace": {**RVQ, "start": "subspace", "beam": 3},
    "rvq_joint": {**RVQ, "refine": "joint", "sweeps": 2, "descent": 2},
    "rvq_revisit": {**RVQ, "start": "subspace", "refine": "revisit", "sweeps": 1, "beam": 3},
    "rvq_projected": {**RVQ, "start": "projected", "axes": 3},
    "rvq_parametric": {**RVQ, "levels": 4, "start": "parametric", "groups": 2},
    "compq": {"type": "compq", "size": 12, "levels": 3, "beam": 2, "epochs": 2},
    "trq": {"type": "trq", "size": 12, "levels": 3, "alignments": 2},
    "qinco": QINCO,
    "qinco2": {**QINCO, "preselect": 4, "beam": 3, "pairs": 2},
    "rvq_nonparametric": {**RVQ, "levels": 4, "start": "nonparametric", "groups": 2},
}
