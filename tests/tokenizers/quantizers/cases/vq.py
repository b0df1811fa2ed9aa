"""VQ: one codebook, hard assignment."""

EMA = {"type": "vq", "size": 12}
LEARNED = {"type": "vq", "size": 12, "codebook": "learned"}
LOW_COSINE = {"type": "vq", "size": 12, "width": 3, "metric": "cosine"}
CONFIGS = {
    "vq_ema": EMA,
    "vq_ema_plain": {**EMA, "kmeans_init": False, "reset_below": 0.0},
    "vq_ema_narrow": {**EMA, "width": 3},
    "vq_ema_cosine": {**EMA, "metric": "cosine"},
    "vq_learned": LEARNED,
    "vq_learned_cosine": {**LEARNED, "metric": "cosine"},
    "vq_learned_low_cosine": {**LOW_COSINE, "codebook": "learned"},
    "vq_ema_low_cosine": LOW_COSINE,
}
BOUNDED = {"vq_ema_cosine", "vq_learned_cosine"}
