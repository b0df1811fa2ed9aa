"""Sections of `scripts/bench_quantizers.py`."""
