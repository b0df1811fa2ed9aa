"""The text side of an exported model for programs that know no other: a Hugging Face tokenizer with a chat template."""

import logging
from pathlib import Path
from typing import Any

from anyglot.lm.chat_template import CHAT_TEMPLATE, NAMES
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.text import TextTokenizer
from anyglot.tokenizers.text_fast import fast_tokenizer

logger = logging.getLogger(__name__)


def save_text(folder: Path, text: TextTokenizer, vocabulary: Vocabulary, max_length: int) -> None:
    """Write a tokenizer that `AutoTokenizer` loads, and that gives the ids which the model was trained on.

    Plain text begins with bos; `apply_chat_template` writes chats of text. Ids of media have no names in it.
    """
    import transformers

    tokenizer = fast_tokenizer(text.kind, text.model)
    unused = range(tokenizer.get_vocab_size(), vocabulary.text_size)
    _add_special(tokenizer, [*(f"<|anyglot_unused_{number}|>" for number in unused), *NAMES.values()])
    wrong = [name for name in NAMES if tokenizer.token_to_id(NAMES[name]) != vocabulary.special(name)]
    if wrong:
        logger.warning("no Hugging Face tokenizer is written: %s would not have the model's id", NAMES[wrong[0]])
        return
    _begin_with_bos(tokenizer, vocabulary)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=NAMES["bos"],
        eos_token=NAMES["eos"],
        pad_token=NAMES["pad"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    ).save_pretrained(folder)


def generation_config(vocabulary: Vocabulary) -> Any:
    """Where `generate` of transformers stops: at the end of the assistant's turn or of the document."""
    import transformers

    return transformers.GenerationConfig(
        bos_token_id=vocabulary.bos,
        eos_token_id=[vocabulary.end_of_turn, vocabulary.eos],
        pad_token_id=vocabulary.pad,
    )


def _add_special(tokenizer: Any, names: list[str]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _begin_with_bos(tokenizer: Any, vocabulary: Vocabulary) -> None:
    from tokenizers.processors import TemplateProcessing

    bos = NAMES["bos"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary.bos)]
    )
