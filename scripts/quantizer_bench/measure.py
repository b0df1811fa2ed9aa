"""What a step costs: CPU seconds, wall seconds and peak memory."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class Cost:
    """cpu: seconds of all threads. wall: seconds. memory: MB by which a step raises the resident set, or the memory
    allocated on a GPU, at its peak. The least of all steps, but the most memory."""

    cpu: float
    wall: float
    memory: float

    def to_json(self, prefix: str = "") -> dict[str, float]:
        return {
            f"{prefix}cpu_seconds": self.cpu,
            f"{prefix}wall_seconds": self.wall,
            f"{prefix}peak_mb": round(self.memory, 2),
        }


def measure(step: Callable[[], T], device: torch.device, steps: int = 7, seconds: float = 6.0) -> tuple[Cost, T]:
    """Cost of `step`, the best of two at least, of up to `steps` while they take less than `seconds` together; and what
    the first of them returned."""
    cost, began, done = Cost(float("inf"), float("inf"), 0.0), time.perf_counter(), 0
    while done < 2 or (done < steps and time.perf_counter() - began < seconds):
        before = _start_memory(device)
        cpu, wall = time.process_time(), time.perf_counter()
        result = step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.cpu = min(cost.cpu, time.process_time() - cpu)
        cost.wall = min(cost.wall, time.perf_counter() - wall)
        cost.memory = max(cost.memory, _peak_memory(device) - before)
        if done == 0:
            first = result
        done += 1
    return cost, first


def ratios(ours: Cost, other: Cost) -> dict[str, float]:
    """How many times less ours takes. Memory below 1 MB, the noise of the resident set, counts as 1 MB."""
    return {
        "cpu_ratio": other.cpu / ours.cpu,
        "wall_ratio": other.wall / ours.wall,
        "memory_ratio": other.memory / max(ours.memory, 1.0),
    }


def _start_memory(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # hand freed memory back, or the next step would grow into it unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size
    return _status("VmRSS")


def _peak_memory(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
