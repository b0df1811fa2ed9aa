"""Which attention a run takes on this machine, and why."""

from typing import Any

import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.lm.attention import KERNELS, Attention, SharedRows, flash_function

BACKENDS = ("auto", "sdpa", "flex", "flash")
TOLERANCE = 0.02  # of the largest number: what bf16 leaves


def choose_attention(
    name: str, model: Any, device: torch.device, dtype: torch.dtype, shared: SharedRows | None = None
) -> tuple[Attention, str]:
    """The attention that a config's `attention` means for a Hugging Face model, and a line that says which it is.

    "auto" is flash where it works, else sdpa. Flash and flex are tried here against sdpa before they are taken.
    Raises ConfigError if what is named does not work.
    """
    if name not in BACKENDS:
        raise ConfigError(f"attention is {name!r}; valid: {', '.join(BACKENDS)}")
    backend = "flash" if name == "auto" else name
    obstacle = _obstacle(backend, model, device, dtype) or _difference(backend, device, dtype)
    if obstacle and name != "auto":
        raise ConfigError(f"attention={name}: {obstacle}; set attention=auto")
    if obstacle:
        return Attention("sdpa", shared), f"sdpa with a mask; {obstacle}"
    if backend == "flash" and (found := flash_function(device.type)):
        return Attention("flash", shared), f"flash of {found[0]}"
    return Attention(backend, shared), {"sdpa": "sdpa with a mask", "flex": "flex"}[backend]


def _obstacle(backend: str, model: Any, device: torch.device, dtype: torch.dtype) -> str:
    """Why a backend cannot train such a model here, "" if it can."""
    if backend == "sdpa":
        return ""
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and backend == "flex"):
        return f"{backend} does not train on {device.type}"
    architecture = model.config
    if not getattr(model, "_supports_attention_backend", False):
        return f"{architecture.model_type} takes no attention but its own"
    if getattr(architecture, "attn_logit_softcapping", None):
        return f"{backend} has no soft cap, and {architecture.model_type} has one in its attention"
    if getattr(architecture, "attention_dropout", 0.0):
        return f"{backend} has no dropout, and model.attention_dropout is not 0"
    if backend == "flex" or device.type == "cpu":
        return ""
    head = getattr(architecture, "head_dim", None) or architecture.hidden_size // architecture.num_attention_heads
    if dtype == torch.float32:
        return "flash needs precision=bf16"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return "flash needs a GPU of compute capability 8.0 or more"
    if head > 256 or head % 8:
        return f"flash needs heads of a multiple of 8 up to 256, not {head}"
    if flash_function(device.type) is None:
        return "flash needs torch 2.12 or flash-attn"
    return ""


def _difference(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """How a backend's result or gradients differ from sdpa's on a few packed documents, "" if they do not.

    So a kernel that fails on this machine, or lets documents see each other, is found before it trains anything.
    """
    if backend == "sdpa":
        return ""
    try:
        mine, theirs = (_probe(name, device, dtype) for name in (backend, "sdpa"))
    except Exception as error:  # whatever a kernel from elsewhere raises is why not to take it
        return f"{backend} fails here: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    for name, a, b in zip(
        ("result", "query's gradient", "key's gradient", "value's gradient"), mine, theirs, strict=True
    ):
        if not (a - b).abs().max() <= TOLERANCE * b.abs().max():  # nor a NaN
            return f"{backend} fails here: its {name} is not sdpa's"
    return ""


def _probe(backend: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Result and gradients of a kernel on two rows of 300 places with documents of many lengths and padding."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([[1, 3, 130, 131, 290], [128, 256, 257, 280, 300]])
    document_ids = torch.searchsorted(ends, torch.arange(300).expand(2, 300).contiguous(), right=True).to(device)
    shapes = ((2, 4, 300, 64), (2, 2, 300, 64), (2, 2, 300, 64), (2, 300, 4, 64))
    query, key, value, along = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    result = KERNELS[backend](document_ids, dtype)(query, key, value, 0.125, 0.0)
    gradients = torch.autograd.grad((result * along).sum(), inputs)
    return [result.detach().float(), *(gradient.float() for gradient in gradients)]
