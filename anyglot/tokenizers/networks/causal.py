"""Causal layers that run on a whole sound or on chunks of it with one and the same code.

Every layer is called as `output, state = layer(input, state)`. State None is the start of a stream; what comes back
is passed in with the next chunk. A whole sound is a single chunk, so that streaming equals offline by construction.
States are tensors, or lists and tuples of states: plain values that the caller keeps, nothing hides in the module.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrizations import weight_norm

State = Any  # None, a tensor, or a list or tuple of states


class Causal(nn.Module):
    """A layer whose output at a time depends on no later input. `forward(x, state=None) -> (y, state)`."""


class CausalSequential(Causal):
    """Layers in a row; those that are not `Causal` must act on each time step alone (activations, norms, linear)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        states = state or [None] * len(self.layers)
        new: list[State] = []
        for layer, layer_state in zip(self.layers, states, strict=True):
            if isinstance(layer, Causal):
                x, layer_state = layer(x, layer_state)
            else:
                x = layer(x)
            new.append(layer_state)
        return x, new


class CausalResidual(Causal):
    """`x + body(x)`, for a body that keeps the shape."""

    def __init__(self, body: Causal) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y, state = self.body(x, state)
        return x + y, state


class CausalConv1d(Causal):
    """Convolution over `[batch, channels, time]` that sees the past only.

    Zeros stand before the start: (kernel - 1) * dilation + 1 - stride of them, so that T inputs (T a multiple of
    the stride) give exactly T / stride outputs, and output t is computed from inputs below (t + 1) * stride.
    The state is the inputs that the next output still needs: the same number of them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.history = (kernel - 1) * dilation + 1 - stride
        if self.history < 0:
            raise ValueError(f"kernel {kernel} with dilation {dilation} skips inputs at stride {stride}")
        conv = nn.Conv1d(in_channels, out_channels, kernel, stride, dilation=dilation, groups=groups)
        self.conv = weight_norm(conv) if normalised else conv

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        x = pad(x, (self.history, 0)) if state is None else torch.cat([state, x], dim=2)
        return self.conv(x), x[:, :, x.shape[2] - self.history :]


class CausalConvTranspose1d(Causal):
    """Transposed convolution over `[batch, channels, time]`: T inputs give exactly T * stride outputs, no latency.

    What an input adds beyond its own `stride` outputs (kernel - stride of them) is the state, added to the next chunk;
    at the end of the stream it is dropped, which is the trim on the right of EnCodec's `trim_right_ratio=1`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, normalised: bool = False) -> None:
        super().__init__()
        if kernel < stride:
            raise ValueError(f"kernel {kernel} leaves gaps at stride {stride}")
        self.stride, self.overlap = stride, kernel - stride
        conv = nn.ConvTranspose1d(in_channels, out_channels, kernel, stride, bias=False)
        self.conv = weight_norm(conv) if normalised else conv
        self.bias = nn.Parameter(torch.zeros(out_channels))  # by itself, or overlapping chunks would add it twice

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y = self.conv(x)
        if state is not None:
            y = y + pad(state, (0, y.shape[2] - self.overlap))
        length = x.shape[2] * self.stride
        return y[:, :, :length] + self.bias[:, None], y[:, :, length:]


class CausalLSTM(Causal):
    """LSTM over `[batch, channels, time]` with a skip connection, as in EnCodec. State: (hidden, cell)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y, state = self.lstm(x.transpose(1, 2), state)
        return x + y.transpose(1, 2), state
