"""Staged codebooks made better together. Each function yields codebooks and their mean squared error, never rising."""

from collections.abc import Callable, Iterator

from torch import Tensor

from anyglot.tokenizers.quantizers.beam import beam_encode, greedy_encode, sum_of
from anyglot.tokenizers.quantizers.kmeans import cluster_means
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.staged import transition

Refined = Iterator[tuple[Tensor, float]]


def joint(x: Tensor, codebooks: Tensor, beam: int, sweeps: int) -> Refined:
    """ERVQ: each stage in turn is fitted to what all the others leave over, and its codes chosen anew for that (Ai et
    al. 2015). Both steps can only lower the error of [n, d] x."""
    codebooks = codebooks.clone()
    codes = beam_encode(x, codebooks, beam)
    left = x - sum_of(codebooks, codes)
    for _ in range(sweeps):
        for level, codebook in enumerate(codebooks):
            target = left + codebook[codes[:, level]]
            codebooks[level] = cluster_means(target, codes[:, level], codebook)[0]
            codes[:, level] = nearest(target, codebooks[level])[0]
            left = target - codebooks[level][codes[:, level]]
        yield codebooks, _error(left)


def stacked(x: Tensor, codebooks: Tensor, beam: int, sweeps: int) -> Refined:
    """SQ: top-down; each stage is fitted to what all the others leave over, then it and those below encode anew, the
    way new vectors will be (Martinez et al. 2014, arXiv:1411.2173). A sweep that does not help is not kept.

    With a beam all stages encode anew.
    """
    best, error = codebooks, _error(x - sum_of(codebooks, beam_encode(x, codebooks, beam)))
    trial = codebooks
    for _ in range(sweeps):
        trial = trial.clone()
        codes = beam_encode(x, trial, beam)
        for level in range(len(trial)):
            left = x - sum_of(trial, codes)
            trial[level] = cluster_means(left + trial[level][codes[:, level]], codes[:, level], trial[level])[0]
            if beam > 1:
                codes = beam_encode(x, trial, beam)
            else:
                above = x - sum_of(trial[:level], codes[:, :level])
                codes[:, level:] = greedy_encode(above, trial[level:])
        now = _error(x - sum_of(trial, codes))
        if now < error:
            best, error = trial, now
        yield best, error


def revisit(x: Tensor, codebooks: Tensor, beam: int, sweeps: int, iterations: int) -> Refined:
    """GRVQ: one stage after the other is clustered anew on what all the others leave over, by `transition` from its
    own code vectors, and all vectors are encoded anew (Liu et al. 2016, arXiv:1609.05345). A stage that got worse
    keeps its codebook."""
    codes = beam_encode(x, codebooks, beam)
    error = _error(x - sum_of(codebooks, codes))
    for _ in range(sweeps):
        for level in range(len(codebooks)):
            codebook = codebooks[level]
            target = x - sum_of(codebooks, codes) + codebook[codes[:, level]]
            for fit in _fits(target, codes[:, level], iterations):
                trial = codebooks.clone()
                trial[level] = fit(codebook)
                found = beam_encode(x, trial, beam)
                now = _error(x - sum_of(trial, found))
                if now < error:
                    codebooks, codes, error = trial, found, now
                    break
        yield codebooks, error


def _fits(target: Tensor, codes: Tensor, iterations: int) -> list[Callable[[Tensor], Tensor]]:
    """Ways to fit a codebook anew, boldest first: clusters of their own, or means of the clusters that there are."""
    return [
        lambda codebook: transition(target, codebook, iterations),
        lambda codebook: cluster_means(target, codes, codebook)[0],
    ]


def _error(left: Tensor) -> float:
    return float(left.double().square().sum(1).mean())
