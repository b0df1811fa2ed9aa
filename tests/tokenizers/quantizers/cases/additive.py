"""Sums of code vectors of full width."""

AQ = {"type": "additive", "levels": 3, "size": 8, "iterations": 3}
CONFIGS = {
    "aq": {**AQ, "beam": 4},
    "apq": {**AQ, "levels": 4, "beam": 4, "groups": 2},
    "lsq": {**AQ, "rounds": 3, "perturb": 2},
    "lsq_sparse": {**AQ, "rounds": 3, "perturb": 2, "density": 0.5},
    "lsqpp": {**AQ, "rounds": 3, "perturb": 2, "relaxation": 0.5},
}
CQ = {"type": "composite", "levels": 2, "size": 8, "iterations": 3}
CONFIGS |= {
    "cq": CQ,
    "cq_sparse": {**CQ, "density": 0.5},
    "cq_supervised": {**CQ, "subspace": 4, "size": 32},
}
ONLINE = {"type": "online_additive", "levels": 3, "size": 8, "iterations": 2, "start": 100, "batch": 50, "beam": 4}
CONFIGS |= {"online_aq": ONLINE, "online_aq_window": {**ONLINE, "window": 200}}
