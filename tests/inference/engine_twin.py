"""The slow twin of the engine: one request, everything computed anew for every id, all logits, the rest masked out."""

import torch

from anyglot.inference.guidance import unconditional
from anyglot.inference.sampling import SamplingConfig, noise_keys, waits
from anyglot.lm.automaton import CODES


def logits_after(decoder, ids):
    """Logits of the whole vocabulary after some ids."""
    return decoder.model(torch.tensor([ids])).logits[0, -1]


def guided(decoder, request, written, inside):
    """Logits as guidance says them: the base, and what each condition adds to it."""
    own = logits_after(decoder, [*request.prompt, *written])
    if (request.guidance == 1 and not request.conditions) or not (inside or request.guide_text):
        return own
    base = logits_after(decoder, [*(request.negative or unconditional(decoder.automaton, request.prompt)), *written])
    logits = base + request.guidance * (own - base)
    for prompt, weight in request.conditions:
        logits = logits + weight * (logits_after(decoder, [*prompt, *written]) - base)
    return logits


@torch.no_grad()
def slow_write(decoder, request):
    """The ids of one request, and how it finishes."""
    progress = decoder.constraints.begin(request, decoder.limit)
    span: list[int] = []
    text: list[int] = []
    while not progress.done:
        inside = progress.state.modality
        name = decoder.vocabulary.modality_names[inside]
        config = request.sampling.get(name) or decoder.sampling.get(name) or decoder.default
        logits = guided(decoder, request, progress.written, inside)
        for token in set(span if inside else text):
            factor = config.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        ranges, cut = decoder.constraints.ranges_of(progress)
        progress.cut |= cut
        allowed = torch.zeros(len(logits), dtype=torch.bool)
        for low, high in ranges:
            allowed[low:high] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
        token = int(logits.argmax()) if config.temperature == 0 else draw(logits, config, request, progress.written)
        before = progress.state
        text += [token] if decoder.vocabulary.is_text(token) and not inside else []
        decoder.constraints.take(progress, token)
        span = [*span, token] if before.place == CODES == progress.state.place else []
    return progress.written, "length" if progress.cut else "stop"


def draw(logits, config: SamplingConfig, request, written):
    """By the definition: temperature, the top_k likeliest, of these those that make up top_p, then the race."""
    logits = logits / config.temperature
    order = logits.argsort(descending=True)
    order = order[: config.top_k] if config.top_k else order
    shares = logits[order].softmax(0)
    order = order[(shares.cumsum(0) - shares) < config.top_p]
    noise = waits(noise_keys([request.seed], [len(written)], logits.device), order[None])[0]
    return int(order[(logits[order] - noise.log()).argmax()])
