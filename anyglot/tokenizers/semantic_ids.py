"""Making semantic IDs unique: a further digit (TIGER), or another code of the last level (LC-Rec)."""

from collections.abc import Callable

import torch
from torch import Tensor

from anyglot.errors import AnyglotError
from anyglot.tokenizers.quantizers.transport import balanced_transport

ITERATIONS = 50  # of Sinkhorn
Costs = Callable[[list[int]], Tensor]


def buckets(codes: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Codes int64 [n, levels] -> which items have them, in order."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index, code in enumerate(codes.tolist()):
        found.setdefault(tuple(code), []).append(index)
    return found


def with_digit(codes: Tensor) -> Tensor:
    """Codes [n, levels] with one level more: 0, 1, 2 ... among the items that have the same ones, in order."""
    digits = torch.zeros(len(codes), 1, dtype=torch.int64)
    for members in buckets(codes).values():
        digits[members, 0] = torch.arange(len(members))
    return torch.cat([codes, digits], 1)


def reassigned(codes: Tensor, costs: Costs, blur: float) -> Tensor:
    """Codes [n, levels] with last levels changed where items collide, so that none do.

    Items that share all codes but the last, some of which collide, are spread over the codes of the last level by
    optimal transport (Sinkhorn, float64, deterministic); then each pair of the plan, heaviest first, is granted if both
    its ends are free.

    Args:
        costs: squared distances float [members, size] of items to what their common codes and each last one stand for.
        blur: of the transport, in units of the mean cost.
    Raises AnyglotError if more items share their first codes than the last level has.
    """
    codes = codes.clone()
    for prefix, members in buckets(codes[:, :-1]).items():
        if len(set(codes[members, -1].tolist())) == len(members):
            continue
        cost = costs(members).double()
        if len(members) > cost.shape[1]:
            raise AnyglotError(
                f"{len(members)} items share the first codes {list(prefix)}, the last level has {cost.shape[1]}; "
                "give the quantizer more levels or codes, or set collisions to 'digit'"
            )
        codes[members, -1] = torch.tensor(_granted(_plan(cost, float(cost.mean().clamp(min=1e-12)) * blur)))
    return codes


def _plan(cost: Tensor, blur: float) -> Tensor:
    """Each of n items [n, size] moved to one code in all, no code given more than one: what is over goes to nobody."""
    items, size = cost.shape
    over = size - items
    masses = cost.new_tensor([1.0] * items + [float(over)] * bool(over)) / size
    nobody = cost.new_zeros(int(bool(over)), size)  # all codes are alike to it
    return balanced_transport(torch.cat([cost, nobody]), blur, ITERATIONS, masses)[:items]


def _granted(plan: Tensor) -> list[int]:
    """For each row of a plan [n, size] a column of its own."""
    rows, size = plan.shape
    chosen, used = [-1] * rows, set[int]()
    for pair in plan.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(pair, size)
        if chosen[row] < 0 and column not in used:
            chosen[row] = column
            used.add(column)
    return chosen
