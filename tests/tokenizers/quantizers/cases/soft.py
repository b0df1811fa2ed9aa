"""Soft and stochastic quantizers: mixtures in training, one code in evaluation."""

SOFTMAX = {"type": "soft", "size": 12, "temperature": 0.5, "final_temperature": 0.05, "anneal_steps": 50}
PULLED = {"commitment": 0.25, "attraction": 1.0}
CONFIGS = {
    "soft_annealed": {**SOFTMAX, "rate": 0.01},
    "soft_narrow": {**SOFTMAX, "width": 3},
    "soft_neighbours": {
        "type": "soft",
        "size": 12,
        "assignment": "neighbours",
        "neighbours": 3,
        "temperature": 0.3,
        **PULLED,
    },
    "soft_convex": {"type": "soft", "size": 24, "assignment": "convex", **PULLED},
    "soft_gumbel": {"type": "soft", "size": 12, "assignment": "gumbel", "temperature": 0.5},
    "soft_dvae": {
        "type": "soft",
        "size": 12,
        "assignment": "gumbel",
        "similarity": "linear",
        "divergence": 1e-3,
    },
    "soft_one_hot": {"type": "soft", "size": 12, "similarity": "dot", "hard": True},
    "soft_masked": {
        "type": "soft",
        "size": 12,
        "assignment": "gumbel",
        "hard": True,
        "deterministic": 0.5,
        "temperature": 0.5,
        "regulariser": {"kind": "prior", "weight": 0.05},
    },
}
OWN_GRADIENT = set(CONFIGS)
SOFT = {"soft_annealed", "soft_narrow", "soft_neighbours", "soft_convex", "soft_gumbel", "soft_dvae"}
