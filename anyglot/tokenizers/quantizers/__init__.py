"""Vectors to codes and back. `base` is the contract, `registry.build` how configs name them.

Where to look, beside the modules that are named like a `type`:
    trained     codebook, sources (of code vectors); gradients; reset, regularisers (what keeps codes in use);
                soft_assignment, annealing, convex, transport; entropy
    fitted      fitted (the contract); kmeans, rotation, subspaces; staged, refine, rotated, beam, pairwise (residual);
                summed, local_search, least_squares (additive); embedded_pq
    all         search, search_triton (nearest code); retrieval; health; store; distributed; buffers
    graphs      anchors
"""

from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, codebooks
from anyglot.tokenizers.quantizers.registry import build

__all__ = ["Quantized", "Quantizer", "build", "codebooks"]
