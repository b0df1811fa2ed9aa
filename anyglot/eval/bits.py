"""How well a language model predicts codes that it has not seen, in bits."""

from collections.abc import Sequence
from math import log

import numpy as np
import torch

from anyglot.data.batches import single_pass
from anyglot.data.shards import TokenStore
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.depth import riders_after
from anyglot.lm.model import LanguageModel
from anyglot.lm.vocabulary import TEXT

BATCH = 4096  # tokens


@torch.no_grad()
def bits_per_code(
    model: Anyglot, heldout_stores: Sequence[str], unigram_stores: Sequence[str], batches: int = 0
) -> dict[str, float]:
    """Bits per code of each modality on held-out documents, beside the training frequencies' (add-one smoothed).

    Documents longer than the model reads are left out. batches: of about 4,096 tokens, of each store; 0: all.

    Returns:
        lm.bits_per_<modality>_code_heldout (of text `_token_`): minus log2 of the probability over the whole
        vocabulary, mean over the codes that bear loss, sub-codes of one code added up; and `..._unigram`: of the code's
        frequency within its level in `unigram_stores`.
    """
    vocabulary = model.vocabulary
    device = model.decoder.head.device
    counts = torch.ones(vocabulary.size, dtype=torch.float64)
    for path in unigram_stores:
        counts += torch.from_numpy(TokenStore(path, vocabulary).unigram())
    log_frequency = torch.zeros(vocabulary.size, dtype=torch.float64)
    for block in vocabulary.blocks:
        members = counts[block.start : block.end]
        log_frequency[block.start : block.end] = (members / members.sum()).log()
    language_model = LanguageModel(model.model, depth=model.decoder.depth, riders=riders_after(vocabulary).to(device))
    level = torch.from_numpy(vocabulary.lookup.level)
    modality = torch.from_numpy(vocabulary.lookup.modality)
    sums = {name: np.zeros(3) for name in vocabulary.modality_names}  # ids, nats of the model, nats of the frequencies
    stores = [TokenStore(path, vocabulary) for path in heldout_stores]
    limit = int(model.model.config.max_position_embeddings)
    length = min(limit, max(256, *(int(store.lengths.max()) for store in stores)))
    rows = max(1, BATCH // length)
    for batch in (batch for store in stores for batch in single_pass(store, length, rows, limit=batches)):
        tensors = [
            torch.from_numpy(value).to(device)
            for value in (batch.input_ids, batch.position_ids, batch.document_ids, batch.labels, batch.weights)
        ]
        nll = language_model(*tensors).nll.cpu().double()
        labels = tensors[3].flatten().cpu()
        counted = tensors[4].flatten().cpu() > 0
        for index, name in enumerate(vocabulary.modality_names):
            of_this = counted & (modality[labels.clamp(min=0)] == index)
            of_this &= (level[labels.clamp(min=0)] >= 0) | (name == TEXT)
            sums[name] += [int(of_this.sum()), float(nll[of_this].sum()), -float(log_frequency[labels[of_this]].sum())]
    figures: dict[str, float] = {}
    for name, (number, nats, unigram) in sums.items():
        if number:
            unit = "token" if name == TEXT else "code"
            number /= 1 if name == TEXT else vocabulary.modality(name).factors  # codes, not sub-codes
            figures[f"lm.bits_per_{name}_{unit}_heldout"] = float(nats / number / log(2))
            figures[f"lm.bits_per_{name}_{unit}_heldout_unigram"] = float(unigram / number / log(2))
    return figures
