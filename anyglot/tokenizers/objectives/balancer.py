"""Loss balancer of EnCodec (arXiv 2210.13438, section 3.4): each loss gets a stated share of the gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anyglot.tokenizers.objectives.adversarial import gradient_at, with_gradient


class Balancer(nn.Module):
    """Scale the losses on one output such that each one's gradient there has its weight's share of the norm.

    With g_i = d loss_i / d output and |g_i| its norm per batch item, averaged over the batch and smoothed over steps,
    the output receives sum_i (weight_i / sum of weights) * g_i / |g_i|. So weights mean shares, whatever the scale of
    the losses. Losses that do not act on the output (commitment) stay outside.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.decay = decay
        for name in self.weights:
            # Numerator and denominator of the moving average, so that early steps are not biased towards zero.
            self.register_buffer(f"norm_{name}", torch.zeros(2))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """Returns the weighted mean of the losses present, carrying the balanced gradient at `output`.

        Args:
            losses: scalars that depend on `output`; a name may be absent at a step (a discriminator not yet started).
            output: `[batch, ...]`, part of the graph.
        """
        total_weight = sum(self.weights[name] for name in losses)
        value = torch.zeros((), device=output.device)
        gradient = torch.zeros_like(output, dtype=torch.float32)
        for name, loss in losses.items():
            share = self.weights[name] / total_weight
            own = gradient_at(loss, output).float()
            gradient += share * own / (self._smoothed_norm(name, own) + 1e-12)
            value += share * loss.detach()
        return with_gradient(value, output.float(), gradient)

    def _smoothed_norm(self, name: str, gradient: Tensor) -> Tensor:
        norm = gradient.flatten(1).norm(dim=1).mean()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(norm)
            norm /= torch.distributed.get_world_size()
        state = self.get_buffer(f"norm_{name}")
        state.mul_(self.decay).add_(torch.stack([norm, torch.ones_like(norm)]))
        return state[0] / state[1]
