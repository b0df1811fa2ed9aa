"""Products: groups of channels, trained by gradients or fitted offline."""

EMA = {"type": "vq", "size": 12}
CONFIGS = {
    "product_ema": {"type": "product", "groups": 3, "inner": EMA},
    "product_unequal": {"type": "product", "groups": 4, "inner": {**EMA, "codebook": "learned"}},
    "product_residual": {"type": "product", "groups": 2, "inner": {"type": "residual", "levels": 2, "inner": EMA}},
    "product_wide": {"type": "product", "groups": 3, "width": 9, "inner": EMA},
    "product_low_cosine": {"type": "product", "groups": 2, "inner": {**EMA, "width": 2, "metric": "cosine"}},
    "pq": {"type": "pq", "groups": 3, "size": 12},
    "pq_unequal": {"type": "pq", "groups": 4, "size": 5, "learn_rotation": True, "alternations": 3},
    "opq": {"type": "pq", "groups": 2, "size": 12, "rotation": "eigenvalue", "learn_rotation": True, "alternations": 3},
    "pq_additive": {"type": "pq", "groups": 2, "size": 8, "levels": 2, "alternations": 2},
    "vaq": {"type": "pq", "groups": 3, "size": 16, "rotation": "pca", "allocation": "variance", "most": 64},
    "lopq": {"type": "lopq", "cells": 4, "groups": 3, "size": 12},
    "ptq": {"type": "ptq", "parts": [1, 3], "size": 8, "alternations": 2},
    "online_pq": {"type": "online_pq", "groups": 3, "size": 12, "start": 100, "batch": 64, "window": 200},
    "online_opq": {"type": "online_pq", "groups": 4, "size": 12, "start": 100, "batch": 64, "rotation": "follow"},
    "deep_pq": {"type": "deep_pq", "groups": 4, "size": 12, "width": 4, "hidden": 32},
    "dopq": {"type": "dopq", "groups": 3, "size": 12},
    "hihpq": {"type": "hihpq", "groups": 2, "size": 8, "width": 3, "prototypes": [12, 4]},
    "dpq": {"type": "dpq", "size": 12},
    "dpq_tied": {"type": "dpq", "size": 12, "tied": True, "width": 4},
    "product_dpq": {"type": "product", "groups": 3, "inner": {"type": "dpq", "size": 12}},
}
# Projections inside the groups (test_product.py has their gradient), and the softmax of DPQ.
OWN_GRADIENT = {"product_low_cosine", "dpq", "dpq_tied", "product_dpq"}
