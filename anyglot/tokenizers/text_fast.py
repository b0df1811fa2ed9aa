"""A text tokenizer as the `tokenizers` library has it, for programs that know no other."""

import json
from typing import Any

from anyglot.tokenizers.text_engines import SPACE, lossless


def fast_tokenizer(kind: str, model: bytes) -> Any:
    """A `tokenizers.Tokenizer` that gives the ids of `TextTokenizer(kind, model)`, without special tokens.

    The few texts that only bytes can spell exactly, such as one with a literal U+2581, become other ids.
    """
    from tokenizers import Tokenizer

    if kind == "huggingface":
        description = json.loads(model)
        by_bytes = bool(description["model"].get("byte_fallback"))
        return Tokenizer.from_str(json.dumps(lossless(description, by_bytes)))
    return _of_sentencepiece(model)


def _of_sentencepiece(model: bytes) -> Any:
    """Byte-pair encoding with the pieces of a sentencepiece model, which merges the pair whose piece scores best.

    Piece 0, <unk>, is not among ours: ids are less by one.
    """
    import sentencepiece
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    count = processor.get_piece_size()
    ids = {processor.id_to_piece(i): i - 1 for i in range(1, count)}
    merged = sorted((i for i in range(1, count) if not processor.is_byte(i)), key=lambda i: -processor.get_score(i))
    spelt = {processor.id_to_piece(i) for i in merged}
    merges = []
    for piece in map(processor.id_to_piece, merged):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [(left, right) for left, right in halves if left in spelt and right in spelt]
    tokenizer = Tokenizer(BPE(ids, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
