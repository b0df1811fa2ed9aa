"""The machine a run is on: its device, whether bf16 is fast there, and the matmul rate it reaches."""

import os
import time

import torch

from anyglot.errors import ConfigError

PRECISIONS = ("auto", "bf16", "fp32")


def local_device() -> torch.device:
    """This process' accelerator, chosen by LOCAL_RANK, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products run on matrix units: AMX or AVX512-BF16 on a CPU, compute capability 8 on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:  # not Linux
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a `precision` setting means here: "auto" is bf16 where that is fast, else fp32."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown; valid: {', '.join(PRECISIONS)}")
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return torch.bfloat16 if bf16 else torch.float32


def matmul_flops(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """FLOPs per second that a large square matmul reaches here: the peak that utilisation is quoted against."""
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
