"""CIDEr-D (arXiv 1411.5726) and BLEU (Papineni et al. 2002) of captions, as pycocoevalcap computes them."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

ORDERS = (1, 2, 3, 4)  # lengths of n-grams
SIGMA = 6.0  # of CIDEr-D's penalty on length

Words = Sequence[str]
Ngrams = Counter[tuple[str, ...]]

_ENDINGS = r"n't|'s|'re|'ve|'ll|'d|'m"


def simple_words(caption: str) -> list[str]:
    """Words in lower case without punctuation, clitics apart ("dog's" is "dog", "'s"; "don't" is "do", "n't").

    Near the Penn Treebank's tokenizer, which published figures use and which needs Java; not the same.
    """
    text = re.sub(r"[\u2018\u2019]", "'", caption.lower())
    text = re.sub(rf"(?<=\w)({_ENDINGS})(?!\w)", r" \1", text)
    return re.findall(rf"(?:{_ENDINGS})(?!\w)|\w+(?:[-.]\w+)*", text)


def cider_d(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]], others: Sequence[Sequence[Words]] = ()
) -> list[float]:
    """CIDEr-D of every candidate against its picture's references, 0 to 10; tables print 100 times the mean.

    n-grams weigh by how few of the pictures have them in a reference, so that a score depends on what else there is:
    with one picture all weights are 0.

    Args:
        others: references of pictures that have no candidate. They count in the weights, so that a caption is worth the
            same whichever others could not be written.
    """
    counted = [[_ngrams(words) for words in group] for group in references]
    uncaptioned = [[_ngrams(words) for words in group] for group in others]
    pictures_with = Counter(ngram for group in [*counted, *uncaptioned] for ngram in set().union(*group))
    pictures = len(counted) + len(uncaptioned)
    logarithm = math.log(pictures) if pictures else 0.0

    def weighted(counts: Ngrams) -> list[dict[tuple[str, ...], float]]:
        """tf-idf by order."""
        by_order: list[dict[tuple[str, ...], float]] = [{} for _ in ORDERS]
        for ngram, count in counts.items():
            by_order[len(ngram) - 1][ngram] = count * (logarithm - math.log(max(1, pictures_with[ngram])))
        return by_order

    scores = []
    for words, group, counts in zip(candidates, references, counted, strict=True):
        mine = weighted(_ngrams(words))
        total = 0.0
        for reference, reference_counts in zip(group, counts, strict=True):
            apart = _bigrams(words) - _bigrams(reference)
            penalty = math.exp(-(apart**2) / (2 * SIGMA**2))
            total += penalty * sum(_cosine(a, b) for a, b in zip(mine, weighted(reference_counts), strict=True))
        scores.append(10 * total / len(ORDERS) / len(group))
    return scores


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """BLEU-1 to BLEU-4 of all candidates together, 0 to 1, against the references nearest to them in length."""
    right, written = Counter[int](), Counter[int]()
    length = reference_length = 0
    for words, group in zip(candidates, references, strict=True):
        most: Ngrams = Counter()
        for reference in group:
            most |= _ngrams(reference)
        length += len(words)
        reference_length += min((abs(len(reference) - len(words)), len(reference)) for reference in group)[1]
        for ngram, count in _ngrams(words).items():
            written[len(ngram)] += count
            right[len(ngram)] += min(count, most[ngram])
    if not length:
        return [0.0 for _ in ORDERS]
    brevity = min(1.0, math.exp(1 - reference_length / length))
    precisions = [right[order] / written[order] if written[order] else 0.0 for order in ORDERS]
    return [brevity * math.prod(precisions[:order]) ** (1 / order) for order in ORDERS]


def _ngrams(words: Words) -> Ngrams:
    return Counter(tuple(words[i : i + order]) for order in ORDERS for i in range(len(words) - order + 1))


def _bigrams(words: Words) -> int:
    """The length that CIDEr-D's code compares."""
    return len(list(pairwise(words)))


def _cosine(mine: dict[tuple[str, ...], float], reference: dict[tuple[str, ...], float]) -> float:
    """Of tf-idf weights, what is written more often than in the reference cut down to that."""
    norms = math.hypot(*mine.values()) * math.hypot(*reference.values())
    shared = sum(
        min(weight, reference[ngram]) * reference[ngram] for ngram, weight in mine.items() if ngram in reference
    )
    return shared / norms if norms else 0.0
