"""Errors a user can mend. The command line prints them as one line, without a traceback."""


class AnyglotError(Exception):
    """What is wrong and what to do about it, in one line that names the file, key or shape."""


class ConfigError(AnyglotError):
    """A configuration file or `key=value` override is wrong."""


class AssetError(AnyglotError):
    """A piece of reference data or weights is missing, or is not the pinned bytes."""


class MediaError(AnyglotError):
    """A picture, sound or other medium cannot be read, or exceeds a limit."""


class MismatchError(AnyglotError):
    """Two things that must belong together (vocabulary, tokenizer, shard, checkpoint) do not."""


class GrammarError(AnyglotError):
    """A token sequence is not a document of the grammar."""
