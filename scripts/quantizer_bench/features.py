"""What quantizers do to real features: recall of asymmetric search, and distortion against bits."""

import time
from pathlib import Path
from typing import Any

from anyglot.config import load_mapping, typed
from anyglot.train.quantizer import QuantizerStageConfig, measure, train
from anyglot.train.vectors import VectorsConfig, load_vectors

ROOT = Path(__file__).parents[2]
PATCHES = "runs/vectors/image_patches.safetensors"

# Families on the distortion plot: configs in order of bits.
CURVES: dict[str, list[dict[str, Any]]] = {
    "VQ (EMA)": [{"type": "vq", "size": 2**bits} for bits in (4, 6, 8, 10)],
    "FSQ": [
        {"type": "fsq", "sizes": sizes} for sizes in ([5, 5, 5], [8, 5, 5, 5], [8, 8, 8, 6, 5], [8, 8, 8, 5, 5, 5])
    ],
    "LFQ": [{"type": "lfq", "bits": bits} for bits in (8, 12, 16)],
    "BSQ": [{"type": "bsq", "bits": bits} for bits in (8, 12, 16)],
    "PQ": [{"type": "pq", "groups": groups, "size": 64} for groups in (1, 2, 4, 8)],
    "OPQ": [
        {
            "type": "pq",
            "groups": groups,
            "size": 64,
            "rotation": "eigenvalue",
            "learn_rotation": True,
            "alternations": 8,
        }
        for groups in (1, 2, 4, 8)
    ],
    "RVQ": [{"type": "rvq", "levels": levels, "size": 64} for levels in (1, 2, 4, 8)],
    "RVQ, beam 8": [{"type": "rvq", "levels": levels, "size": 64, "beam": 8} for levels in (2, 4, 8)],
    "LSQ": [
        {"type": "additive", "levels": levels, "size": 64, "rounds": 8, "perturb": min(levels, 2), "iterations": 8}
        for levels in (2, 4, 8)
    ],
}


def distortion(family: str, config: dict[str, Any], seed: int, few: bool) -> dict[str, Any]:
    """Held-out distortion of one quantizer of image patches [192], trained or fitted on some of them."""
    vectors = VectorsConfig(str(ROOT / PATCHES), 1500 if few else 8000, 300 if few else 2000)
    stage = QuantizerStageConfig("", vectors, config, steps=20 if few else 800, batch_size=512, seed=seed)
    data = load_vectors(vectors)
    began = time.process_time()
    model = train(stage, data, family)
    spent = time.process_time() - began
    found = measure(model, data, [])
    return {
        "family": family,
        "quantizer": config,
        "bits": found.bits,
        "distortion": found.distortion,
        "relative_error": found.relative_error,
        "cpu_seconds": spent,
    }


def search_recipes() -> list[str]:
    """Systems whose recipe asks for recall."""
    names = sorted(path.stem for path in (ROOT / "configs" / "systems").glob("*.yaml"))
    return [name for name in names if load_mapping(f"systems/{name}").get("recall")]


def recall(name: str, few: bool) -> dict[str, Any]:
    """recall@1, 10 and 100 of a system, as its recipe trains it: held-out vectors ask, training vectors answer."""
    mapping = load_mapping(f"systems/{name}")
    mapping.pop("system")
    config = typed(QuantizerStageConfig, mapping, name)
    config.vectors.file = str(ROOT / config.vectors.file)
    if few:
        config.vectors.train, config.vectors.heldout = 1500, 300
    vectors = load_vectors(config.vectors)
    began = time.process_time()
    found = measure(train(config, vectors, name), vectors, [1, 10, 100])
    return {
        "system": name,
        "quantizer": mapping["quantizer"],
        "vectors": Path(config.vectors.file).stem,
        "D": vectors.width,
        "database": len(vectors.train),
        "queries": len(vectors.heldout),
        "bits": round(found.bits, 2),
        "relative_error": found.relative_error,
        "recall": {str(at): share for at, share in found.recall.items()},
        "chance": {str(at): at / len(vectors.train) for at in found.recall},
        "cpu_seconds": time.process_time() - began,
    }
