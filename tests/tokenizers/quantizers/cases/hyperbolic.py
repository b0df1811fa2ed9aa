"""HyperVQ: codes drawn in training, from a classifier."""

CONFIGS = {
    "hyperbolic": {"type": "hyperbolic", "size": 12},
    "hyperbolic_narrow": {
        "type": "hyperbolic", "size": 12, "width": 3, "temperature": 1.0, "final_temperature": 0.5, "anneal_steps": 20,
    },
}  # fmt: skip
OWN_GRADIENT = set(CONFIGS)
