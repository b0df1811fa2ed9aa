"""Modules whose running statistics keep their precision when an engine converts the model to bf16."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class Fp32Buffers(nn.Module):
    """Moves its buffers with the module, but never changes their type: averages with decay 0.99 vanish in bf16."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self
