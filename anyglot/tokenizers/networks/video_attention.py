"""Attention over frames of a grid, `[batch, time, rows, columns, width]`, along some of its axes, causal in time.

As in `causal.py` a layer is `output, state = layer(input, state)`, so that streaming equals offline by construction.
The state is the keys and values of all frames so far.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from anyglot.tokenizers.networks.causal import Causal, State

KINDS = ("space", "window", "rows", "columns", "time", "joint")


class GridAttention(Causal):
    """Multi-head attention along the axes that `kind` names.

    kind: "space": all places of a frame see each other. "window": those of a square of `window` places.
        "rows", "columns": those of a row, a column. "time": a place sees itself in this and all earlier frames.
        "joint": sees all places of this and all earlier frames (block-wise causal, BSQ-ViT, arXiv:2406.07548).

    Frames are the less important the longer ago they are, by a slope of each head (ALiBi, Press et al.,
    arXiv:2108.12409, as in C-ViViT): this holds for streams of any length.
    """

    def __init__(self, width: int, heads: int, kind: str, window: int = 4) -> None:
        super().__init__()
        self.heads, self.kind, self.window = heads, kind, window
        self.entrance = nn.Linear(width, 3 * width, bias=False)
        self.exit = nn.Linear(width, width)
        self.register_buffer("slopes", 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads), persistent=False)
        self.slopes: Tensor

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        batch, time, rows, columns, width = x.shape
        if time == 0:
            return x, state
        parts = self.entrance(x).chunk(3, dim=-1)
        if self.kind == "window":
            return self.exit(self._windows(parts, rows, columns)), None
        query, key, value = (self._line_up(part) for part in parts)
        bias = None
        if self.kind in ("time", "joint"):
            if state is not None:
                key, value = (torch.cat([old, new], dim=2) for old, new in zip(state, (key, value), strict=True))
            state = (key, value)
            places = rows * columns if self.kind == "joint" else 1
            bias = self._bias(time, key.shape[2] // places, places).to(query.dtype)
        y = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        y = y.transpose(1, 2).flatten(2)  # [lines, length, width]
        return self.exit(self._put_back(y, (batch, time, rows, columns, width))), state

    def _line_up(self, x: Tensor) -> Tensor:
        """`[batch, time, rows, columns, width]` to `[lines, heads, length, width of a head]`."""
        if self.kind == "columns":
            x = x.transpose(2, 3)
        if self.kind == "time":
            x = x.permute(0, 2, 3, 1, 4)
        kept = {"space": 2, "joint": 1}.get(self.kind, 3)  # leading axes that tell lines apart
        lines = x.flatten(kept, -2).flatten(0, kept - 1)
        return lines.reshape(*lines.shape[:2], self.heads, -1).transpose(1, 2)

    def _put_back(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        batch, time, rows, columns, width = shape
        if self.kind == "columns":
            return y.reshape(batch, time, columns, rows, width).transpose(2, 3)
        if self.kind == "time":
            return y.reshape(batch, rows, columns, time, width).permute(0, 3, 1, 2, 4)
        return y.reshape(shape)

    def _bias(self, new: int, total: int, places: int) -> Tensor:
        """`[heads, new * places, total * places]`: how much less a frame of long ago counts; -inf in the future."""
        ago = torch.arange(total - new, total, device=self.slopes.device)[:, None] - torch.arange(
            total, device=self.slopes.device
        )
        bias = -self.slopes[:, None, None] * ago
        bias = bias.masked_fill(ago < 0, -torch.inf)
        return bias.repeat_interleave(places, 1).repeat_interleave(places, 2)

    def _windows(self, parts: tuple[Tensor, ...], rows: int, columns: int) -> Tensor:
        """Attention inside each square; a grid that squares do not fill is padded with places that nobody sees."""
        side = self.window
        beyond = (-columns % side, -rows % side)
        there = pad(torch.ones(rows, columns, dtype=torch.bool, device=parts[0].device), (0, beyond[0], 0, beyond[1]))
        down, across = there.shape[0] // side, there.shape[1] // side
        seen = there.reshape(down, side, across, side).transpose(1, 2).reshape(1, down * across, 1, 1, side * side)

        def cut(x: Tensor) -> Tensor:  # [batch * time, squares, heads, places, width of a head]
            x = pad(x.flatten(0, 1), (0, 0, 0, beyond[0], 0, beyond[1]))
            x = x.reshape(len(x), down, side, across, side, self.heads, -1)
            return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(x), down * across, self.heads, side * side, -1)

        query, key, value = (cut(part) for part in parts)
        y = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        y = y.reshape(len(y), down, across, self.heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(len(y), down * side, across * side, -1)[:, :rows, :columns]
        return y.reshape(parts[0].shape)


class AxialAttention(Causal):
    """`x + attention along rows + along columns + along time` of `[batch, channels, time, height, width]` (VideoGPT,
    Yan et al., arXiv:2104.10157; there time is not causal, and cannot stream)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.axes = nn.ModuleList(GridAttention(width, heads, kind) for kind in ("rows", "columns", "time"))

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        last = self.norm(x.permute(0, 2, 3, 4, 1))
        found = [layer(last, state if layer.kind == "time" else None) for layer in self.axes]
        return x + sum(y for y, _ in found).permute(0, 4, 1, 2, 3), found[-1][1]
