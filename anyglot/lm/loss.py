"""Cross-entropy over a large vocabulary, block by block: the `[tokens, vocabulary]` logits are never built.

The gradient is computed in the same pass as the loss, so that every block of logits lives once. That also
suits ZeRO-3, where the output head is whole only inside the forward of the module that registers it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Rows of logits at once. Few keep the logits in a CPU's cache; but the whole head's gradient is added to once a block,
# so that at large vocabularies fewer than this cost more than they save. A GPU wants more of both.
LEAST_ROWS = {"cpu": 256, "cuda": 1024}
BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}


class TokenLoss(NamedTuple):
    """total: scalar, sum over tokens of weight * (nll + z_loss * log Z ^ 2). nll: `[tokens]` in nats, detached.

    For monitors, `[tokens]` and detached: log_z, the logarithm of the softmax's denominator; gradient_norm, of `total`
    by the token's hidden state, 0 where no gradient is asked for; logit_rms, over the vocabulary, None where it is not
    measured. All are 0 for tokens of weight 0.
    """

    total: Tensor
    nll: Tensor
    log_z: Tensor
    gradient_norm: Tensor
    logit_rms: Tensor | None


class BlockwiseCrossEntropy(nn.Module):
    """Output head and weighted next-token loss in one module.

    Args:
        weight: the head's `[vocabulary, hidden]` parameter, registered here too (it may be tied).
        z_loss: coefficient of log Z ^ 2, which keeps logits from drifting (PaLM, 2022). 0 leaves it out.
        rows: tokens whose logits are held at once, 0 for what is fast on the device.
        new_rows: the head's rows after those of `weight`, where they are a parameter of their own (`rows.py`).
        softcap: c bends every logit to c tanh(logit / c), so that none is larger (Gemma 2, 2024). 0 leaves them.
    Attributes:
        measures_rms: whether `logit_rms` is measured, by one more pass over the logits: about 2 % of a step.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        z_loss: float = 0.0,
        rows: int = 0,
        new_rows: nn.Parameter | None = None,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.new_rows = new_rows
        self.z_loss = z_loss
        self.softcap = softcap
        self.rows = rows
        self.measures_rms = True

    def forward(self, hidden: Tensor, labels: Tensor, weights: Tensor) -> TokenLoss:
        """Loss of `labels` `[...]` given `hidden` `[..., hidden]`, each token counted `weights` `[...]` times.

        Tokens of weight 0 cost nothing: their label may be any number, such as -100.
        """
        hidden, labels, weights = hidden.flatten(0, -2), labels.flatten(), weights.flatten().float()
        counted = weights.nonzero().squeeze(1)
        heads: list[Tensor] = [self.weight] if self.new_rows is None else [self.weight, self.new_rows]
        if not torch.is_grad_enabled():  # which an autograd function does not see
            heads = [head.detach() for head in heads]
        rows = self.rows or block_rows(sum(head.shape[0] for head in heads), hidden.device.type)
        total, *measured = _BlockwiseLoss.apply(
            hidden[counted],
            labels[counted],
            weights[counted],
            self.z_loss,
            self.softcap,
            rows,
            self.measures_rms,
            *heads,
        )
        nll, log_z, gradient_norm, rms = (torch.zeros_like(weights).index_copy(0, counted, each) for each in measured)
        return TokenLoss(total, nll, log_z, gradient_norm, rms if self.measures_rms else None)


def cap_(logits: Tensor, softcap: float) -> Tensor:
    """Bend logits to softcap * tanh(logits / softcap), in place; 0 leaves them as they are."""
    return logits.div_(softcap).tanh_().mul_(softcap) if softcap else logits


def block_rows(vocabulary: int, device: str) -> int:
    """Tokens whose logits are held at once on a type of device."""
    kind = device if device in LEAST_ROWS else "cuda"
    return max(LEAST_ROWS[kind], BLOCK_ELEMENTS[kind] // vocabulary)


class _BlockwiseLoss(torch.autograd.Function):
    """hidden `[n, hidden]`, labels `[n]`, weights `[n]`, heads `[some ids, hidden]` -> the fields of TokenLoss.

    A head that is frozen costs no gradient of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        weights: Tensor,
        z_loss: float,
        softcap: float,
        rows: int,
        measures_rms: bool,
        *heads: Tensor,
    ) -> tuple[Tensor, ...]:
        needs_gradient = any(ctx.needs_input_grad)
        sizes = [head.shape[0] for head in heads]
        nll, log_z, gradient_norm, logit_rms = measured = tuple(torch.zeros_like(weights) for _ in range(4))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if needs_gradient:
            hidden_gradient = torch.zeros_like(hidden)
            head_gradients = [
                torch.zeros_like(head, dtype=torch.float32) if needed else None
                for head, needed in zip(heads, ctx.needs_input_grad[7:], strict=True)
            ]
        for start in range(0, hidden.shape[0], rows):
            block = slice(start, start + rows)
            parts = [hidden[block] @ head.T for head in heads]
            logits = (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).float()  # [rows, vocabulary]
            logits = cap_(logits, softcap)
            slope = logits.div(softcap).square_().neg_().add_(1) if softcap else None  # of the cap
            if measures_rms:
                logit_rms[block] = torch.linalg.vector_norm(logits, dim=1) / logits.shape[1] ** 0.5
            right = logits.gather(1, labels[block, None]).squeeze(1)
            largest = logits.amax(1)
            sums = logits.sub_(largest[:, None]).exp_().sum(1)  # in place: passes over the logits are what costs time
            log_z[block] = sums.log() + largest
            nll[block] = log_z[block] - right
            total += (weights[block] * (nll[block] + z_loss * log_z[block] ** 2)).sum()
            if needs_gradient:
                # d/dlogits of nll is softmax - onehot; of log Z ^ 2 it is 2 log Z softmax.
                logits.mul_((weights[block] * (1 + 2 * z_loss * log_z[block]) / sums)[:, None])
                logits.scatter_add_(1, labels[block, None], -weights[block, None])
                logits = logits if slope is None else logits.mul_(slope)
                gradients = torch.split(logits.to(hidden.dtype), sizes, 1)
                for head, head_gradient, gradient in zip(heads, head_gradients, gradients, strict=True):
                    hidden_gradient[block] += gradient @ head
                    if head_gradient is not None:
                        head_gradient += gradient.T @ hidden[block]
                gradient_norm[block] = torch.linalg.vector_norm(hidden_gradient[block].float(), dim=1)
        if needs_gradient:
            of_heads = [None if gradient is None else gradient.to(heads[0].dtype) for gradient in head_gradients]
            ctx.save_for_backward(hidden_gradient, *of_heads)
        ctx.mark_non_differentiable(*measured)
        return total, *measured

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        hidden, *heads = (None if saved is None else saved * scale for saved in ctx.saved_tensors)
        return (hidden, None, None, None, None, None, None, *heads)
