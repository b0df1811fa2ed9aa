"""How good an item tokenizer is: what of the embeddings its codes keep, how many items share codes, and code usage."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anyglot.data.documents import Document
from anyglot.errors import MediaError
from anyglot.eval.answers import Answer, mean_of, share_right
from anyglot.eval.documents import part_of
from anyglot.eval.image import CodeUsage
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.item import Item, ItemTokenizer
from anyglot.tokenizers.semantic_ids import buckets


@torch.no_grad()
def evaluate(
    tokenizer: ItemTokenizer, heldout: Sequence[Item], texts: Sequence[str] = (), usage_of: Sequence[Item] = ()
) -> dict[str, float]:
    """Scores of a tokenizer on items that it did not learn from; it takes them into its catalogue, in memory.

    Args:
        texts: what they are; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: items over which usage is counted (default: the catalogue, which training fixed the codes of).
    Returns:
        explained_variance, explained_variance_heldout: share of the variance of the normalised embeddings that the
        decoded ones explain, of the catalogue and of new items (two or more). collision_rate: share of the catalogue
        whose codes of the quantizer another item has too. unresolved: the same of the codes it ended with, new items
        among them.
        items: held-out ones.
        codebook_usage, code_entropy_bits: means over the quantizer's levels; usage_LEVEL, entropy_LEVEL: of each.
    """
    quantized = tokenizer(tokenizer.embeddings)
    result = {
        "explained_variance": _explained(quantized.output, quantized.target),
        "collision_rate": _shared(quantized.quantized.codes),
        "items": float(len(heldout)),
    }
    if heldout:
        vectors = torch.stack([tokenizer.embedding_of(item) for item in heldout])
        made = tokenizer(vectors)
        if len(heldout) > 1:  # one has no variance
            result["explained_variance_heldout"] = _explained(made.output, made.target)
        tokenizer.add([item for item in heldout if tokenizer.place(item.id) is None])
    result["unresolved"] = _shared(tokenizer.table)
    codes = quantized.quantized.codes.cpu()
    if usage_of:
        levels = codes.shape[1]
        codes = torch.stack(tokenizer.encode(list(usage_of)))[:, :levels]
    usage = CodeUsage(tokenizer.quantizer.levels)
    usage.update([codes])
    for level, size in enumerate(tokenizer.quantizer.levels):
        one = CodeUsage([size])
        one.update([codes[:, level : level + 1]])
        result[f"usage_{level}"] = one.result()["codebook_usage"]
        result[f"entropy_{level}"] = one.result()["code_entropy_bits"]
    return {**result, **usage.result()}


class Check:
    """An item is right if it is the document's own; one that is not in the catalogue, if its codes are written."""

    def __init__(self, tokenizer: ItemTokenizer, training: Sequence[Document] = ()) -> None:
        self.tokenizer = tokenizer

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """right_item: share of answers that are the very item. valid_ids: share whose codes are a known item's."""
        valid = []
        for answer in answers:
            wanted, made = part_of(answer.document, "item"), answer.part("item")
            assert wanted is not None
            own: Item = media_of(self.tokenizer, wanted)
            valid.append(made is not None)
            if self.tokenizer.place(own.id) is None:
                answer.right = _written(answer) in self._codes(own)
            else:
                answer.right = made is not None and made.data.id == own.id
            answer.note = "no item" if made is None else made.data.text
        return {"right_item": share_right(answers), "valid_ids": mean_of(answers, valid)}

    def _codes(self, new: Item) -> list[list[int]]:
        """The codes that a new item would get; none if none are left for it, so that nothing written is right."""
        try:
            return [codes.tolist() for codes in self.tokenizer.encode([new])]
        except MediaError:
            return []


def _written(answer: Answer) -> list[int] | None:
    """The codes of the first item in an answer, whether an item has them or not."""
    spans = (part.codes for part in answer.reply.parts if part.type == "item" and part.codes is not None)
    return next((codes.tolist() for codes in spans), None)


def _explained(output: Tensor, target: Tensor) -> float:
    return 1 - float((output - target).square().sum() / (target - target.mean(0)).square().sum())


def _shared(codes: Tensor) -> float:
    """The share of rows [n, levels] that are not the only ones of their kind."""
    return sum(len(members) for members in buckets(codes).values() if len(members) > 1) / max(len(codes), 1)
