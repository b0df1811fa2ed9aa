"""Anyglot: language models that read and write every medium through discrete codes."""

__version__ = "0.1.0"
