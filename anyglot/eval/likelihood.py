"""How likely a model finds ids after a prompt, and whether it would have written them itself."""

from collections.abc import Sequence

import torch

from anyglot.errors import AnyglotError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.depth import riders_after
from anyglot.lm.loss import block_rows
from anyglot.lm.model import LanguageModel


@torch.no_grad()
def log_likelihoods(
    model: Anyglot, asked: Sequence[tuple[Sequence[int], Sequence[int]]], batch: int = 8
) -> list[tuple[float, bool]]:
    """The log-probability of ids after their prompt, and whether each of them is the likeliest, for every pair.

    Args:
        asked: prompt, from bos on, and the ids after it; together at most one more than the model reads.
        batch: rows of one forward; what a pair gets depends on nothing beside it (to rounding).
    Returns:
        nats over the whole vocabulary, summed over the ids, and True if greedy choice would give the same ids.
    Raises:
        AnyglotError: a prompt is empty, or a pair too long.
    """
    device = model.decoder.head.device
    rows_read = model.decoder.limit + 1
    for prompt, ids in asked:
        if not prompt or len(prompt) + len(ids) > rows_read:
            raise AnyglotError(
                f"a prompt of {len(prompt)} tokens and {len(ids)} after it: at least 1 and at most {rows_read} together"
            )
    reader = LanguageModel(
        model.model, depth=model.decoder.depth, riders=riders_after(model.vocabulary).to(device)
    ).eval()
    found: list[tuple[float, bool]] = [(0.0, True)] * len(asked)
    longest_first = sorted(range(len(asked)), key=lambda number: -sum(map(len, asked[number])))
    for start in range(0, len(asked), batch):
        numbers = longest_first[start : start + batch]
        states, wanted = _states(reader, [asked[number] for number in numbers], device)
        logs, likeliest = _scored(model, states, wanted)
        ends = torch.tensor([len(asked[number][1]) for number in numbers]).cumsum(0).tolist()
        for number, low, high in zip(numbers, [0, *ends], ends, strict=False):
            found[number] = float(logs[low:high].sum()), bool(likeliest[low:high].all())
    return found


def _states(
    reader: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states `[ids, hidden]` from which each of the ids after the prompts is read, and these ids `[ids]`."""
    lines = [[*prompt, *ids] for prompt, ids in pairs]
    shape = len(lines), max(max(map(len, lines)) - 1, 1)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    document_ids = torch.full(shape, -1)
    for row, line in enumerate(lines):
        input_ids[row, : len(line) - 1] = torch.tensor(line[:-1])
        document_ids[row, : max(len(line) - 1, 1)] = row
    position_ids = torch.arange(shape[1]).expand(shape)
    hidden = reader.hidden_states(*(each.to(device) for each in (input_ids, position_ids, document_ids)))
    states = [hidden[row, len(prompt) - 1 : len(prompt) - 1 + len(ids)] for row, (prompt, ids) in enumerate(pairs)]
    return torch.cat(states), torch.tensor([token for _, ids in pairs for token in ids], device=device)


def _scored(model: Anyglot, states: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities `[ids]`, fp64, and whether each id is the likeliest `[ids]`, of states `[ids, hidden]`."""
    logs = torch.zeros(len(wanted), dtype=torch.float64)
    likeliest = torch.zeros(len(wanted), dtype=torch.bool)
    rows = model.decoder.head.shape[0]
    block = block_rows(rows, states.device.type)  # so many states whose logits are held at once
    for low in range(0, len(wanted), block):
        logits = model.decoder.logits(states[low : low + block], 0, rows).float()
        of_this = wanted[low : low + block]
        chosen = logits.gather(1, of_this[:, None])[:, 0]
        logs[low : low + block] = (chosen - logits.logsumexp(-1)).cpu().double()
        likeliest[low : low + block] = (logits.argmax(-1) == of_this).cpu()
    return logs, likeliest
