"""How good an action tokenizer is: what its codes cost and lose; and whether a written action is the one asked for.

Everything is measured on what a user gets. Of PRISE that is a controller, which knows what is observed.
"""

from collections.abc import Sequence
from math import log2, sqrt

import numpy as np

from anyglot.data.documents import Document
from anyglot.eval.answers import Answer, share_right
from anyglot.eval.documents import part_of
from anyglot.eval.image import CodeUsage
from anyglot.eval.motion import COMPARED, called, moments
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.action import ActionTokenizer
from anyglot.tokenizers.action_prise import PriseTokenizer


def evaluate(
    tokenizer: ActionTokenizer | PriseTokenizer,
    heldout: Sequence[np.ndarray],
    texts: Sequence[str] = (),
    usage_of: Sequence[np.ndarray] = (),
) -> dict[str, float]:
    """Scores of a tokenizer on held-out actions, float32 `[time, features]`.

    Args:
        texts: what they do; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: actions over which codebook usage is counted (default: `heldout`).
    Returns:
        items: actions. numbers_per_code: how many times fewer codes there are than with one for each number.
        bits_per_number: of these codes. codes_per_second, bits_per_second: at the `rate` of the tokenizer.
        rmse_heldout, worst_heldout: errors of decoded actions in the tokenizer's own units: of FAST the 1st and 99th
        percentile of a feature are -1 and 1, of PRISE its standard deviation is 1.
        rounding_bits_per_number: only of FAST, what numbers rounded apart, in [-1, 1], to the same rmse would take.
        codebook_usage, code_entropy_bits: see `CodeUsage`.
    """
    codes = tokenizer.encode(heldout)
    if isinstance(tokenizer, PriseTokenizer):
        seen = tokenizer.config.observation
        decoded = tokenizer.decode(codes, [action[:, :seen] for action in heldout])
        unit = tokenizer.std.cpu().numpy()[seen:]
    else:
        seen, decoded, unit = 0, tokenizer.decode(codes), tokenizer.half_range
    errors = np.concatenate([((a - b)[:, seen:]) / unit for a, b in zip(decoded, heldout, strict=True)])
    count = sum(map(len, codes))
    per_second = count / len(errors) * tokenizer.config.rate
    found = {
        "items": float(len(heldout)),
        "numbers_per_code": errors.size / count,
        "bits_per_number": tokenizer.spec.bits * count / errors.size,
        "codes_per_second": per_second,
        "bits_per_second": tokenizer.spec.bits * per_second,
        "rmse_heldout": float(np.sqrt((errors**2).mean())),
        "worst_heldout": float(np.abs(errors).max()),
    }
    if isinstance(tokenizer, ActionTokenizer):
        found["rounding_bits_per_number"] = max(0.0, log2(2 / (found["rmse_heldout"] * sqrt(12))))
    usage = CodeUsage(tokenizer.spec.levels)
    usage.update(tokenizer.encode(usage_of) if len(usage_of) else codes)
    return {**found, **usage.result()}


class Check:
    """An action is right if the training action nearest to it, of all, is called the same.

    Actions are compared at 32 moments from their first to their last step, in standard deviations of the training
    actions. What a document's text says before its first comma is what its action is called.
    """

    def __init__(self, tokenizer: ActionTokenizer | PriseTokenizer, training: Sequence[Document]) -> None:
        self.tokenizer = tokenizer
        known = {
            part.key: (called(document), moments(media_of(tokenizer, part)))
            for document in training
            if (part := part_of(document, "action")) is not None
        }
        self.names = [name for name, _ in known.values()]
        self.known = np.stack([steps for _, steps in known.values()]) if known else np.zeros((0, COMPARED, 1))
        self.unit = np.maximum(self.known.std((0, 1)), 1e-6) if known else np.ones(1)

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """nearest_is_right: the share of actions whose nearest training action is called what was asked for."""
        for answer in answers:
            part = answer.part("action")
            answer.right, answer.note = False, "no action"
            if part is not None and self.names:
                off = (self.known - moments(media_of(self.tokenizer, part))) / self.unit
                nearest = self.names[int((off**2).mean((1, 2)).argmin())]
                answer.right, answer.note = nearest == called(answer.document), f"nearest: {nearest}"
        return {"nearest_is_right": share_right(answers)}
