"""SQ-VAE and its residual stack: codes drawn in training."""

CONFIGS = {
    "sq_vae": {"type": "sq_vae", "size": 12, "weight": 0.02, "temperature": 0.5},
    "sq_vae_narrow": {"type": "sq_vae", "size": 12, "width": 3, "weight": 0.02, "temperature": 0.5},
    "sq_vae_residual": {"type": "sq_vae", "size": 12, "levels": 3, "weight": 0.02, "temperature": 0.5},
}
OWN_GRADIENT = set(CONFIGS)
SOFT = set(CONFIGS)
