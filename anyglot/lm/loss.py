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
    """total: scalar, sum over tokens of weight * (nll + z_loss * log Z ^ 2). nll: `[tokens]` in nats, detached."""

    total: Tensor
    nll: Tensor


class BlockwiseCrossEntropy(nn.Module):
    """Output head and weighted next-token loss in one module.

    Args:
        weight: the head's `[vocabulary, hidden]` parameter, registered here too (it may be tied).
        z_loss: coefficient of log Z ^ 2, which keeps logits from drifting (PaLM, 2022). 0 leaves it out.
        rows: tokens whose logits are held at once, 0 for what is fast on the device.
    """

    def __init__(self, weight: nn.Parameter, z_loss: float = 0.0, rows: int = 0) -> None:
        super().__init__()
        self.weight = weight
        self.z_loss = z_loss
        self.rows = rows

    def forward(self, hidden: Tensor, labels: Tensor, weights: Tensor) -> TokenLoss:
        """Loss of `labels` `[...]` given `hidden` `[..., hidden]`, each token counted `weights` `[...]` times.

        Tokens of weight 0 cost nothing: their label may be any number, such as -100.
        """
        hidden, labels, weights = hidden.flatten(0, -2), labels.flatten(), weights.flatten().float()
        counted = weights.nonzero().squeeze(1)
        rows = self.rows or block_rows(self.weight.shape[0], hidden.device.type)
        total, counted_nll = _BlockwiseLoss.apply(
            hidden[counted], self.weight, labels[counted], weights[counted], self.z_loss, rows
        )
        nll = torch.zeros_like(weights).index_copy(0, counted, counted_nll)
        return TokenLoss(total, nll)


def block_rows(vocabulary: int, device: str) -> int:
    """Tokens whose logits are held at once on a type of device."""
    kind = device if device in LEAST_ROWS else "cuda"
    return max(LEAST_ROWS[kind], BLOCK_ELEMENTS[kind] // vocabulary)


class _BlockwiseLoss(torch.autograd.Function):
    """hidden `[n, hidden]`, weight `[vocabulary, hidden]`, labels `[n]`, weights `[n]` -> total, nll `[n]`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, z_loss: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        nll = torch.empty_like(weights)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if needs_gradient:
            hidden_gradient = torch.empty_like(hidden)
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], rows):
            block = slice(start, start + rows)
            logits = (hidden[block] @ weight.T).float()  # [rows, vocabulary]
            right = logits.gather(1, labels[block, None]).squeeze(1)
            largest = logits.amax(1)
            sums = logits.sub_(largest[:, None]).exp_().sum(1)  # in place: passes over the logits are what costs time
            log_z = sums.log() + largest
            nll[block] = log_z - right
            total += (weights[block] * (nll[block] + z_loss * log_z**2)).sum()
            if needs_gradient:
                # d/dlogits of nll is softmax - onehot; of log Z ^ 2 it is 2 log Z softmax.
                logits.mul_((weights[block] * (1 + 2 * z_loss * log_z) / sums)[:, None])
                logits.scatter_add_(1, labels[block, None], -weights[block, None])
                gradient = logits.to(hidden.dtype)
                hidden_gradient[block] = gradient @ weight
                weight_gradient += gradient.T @ hidden[block]
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        return hidden_gradient * scale, weight_gradient * scale, None, None, None, None
