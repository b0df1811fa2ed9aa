"""The model for others: a plain Hugging Face directory in safetensors, with vocabulary and tokenizers beside it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyglot.errors import MismatchError
from anyglot.files import atomic_directory
from anyglot.lm.rows import whole_state
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import read_manifest
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train.export_text import generation_config, save_text
from anyglot.train.lora import has_lora, merged_state, save_adapter


def check_tokenizers(vocabulary: Vocabulary, tokenizers: Mapping[str, str]) -> None:
    """Raise MismatchError unless the tokenizer directories ("text" or modality -> path) are the vocabulary's."""
    for name in tokenizers:
        if name not in vocabulary.modality_names:
            raise MismatchError(f"tokenizers.{name}: the vocabulary has only {', '.join(vocabulary.modality_names)}")
    vocabulary.check({name: read_manifest(directory)["fingerprint"] for name, directory in tokenizers.items()})


def export(engine: Any, directory: Path, vocabulary: Vocabulary, tokenizers: Mapping[str, str]) -> None:
    """Write the engine's model, whole whatever the ZeRO stage. Every rank calls it; rank 0 writes, atomically.

    The directory loads with `AutoModelForCausalLM.from_pretrained` and with `anyglot generate`; with a text tokenizer
    also with `AutoTokenizer.from_pretrained`, whose chat template writes what was trained on. LoRA is merged into its
    weights; `adapter/` below it has the adapters alone, for peft. The transformer over levels of `depth` streams lies
    beside it, in `depth.safetensors`.
    """
    import deepspeed
    import torch.distributed as dist
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of writing a single file
    model, depth = engine.module.model, engine.module.depth
    parameters = list(engine.module.parameters()) if engine.zero_optimization_stage() == 3 else []
    with deepspeed.zero.GatheredParameters(parameters, enabled=bool(parameters)):
        if dist.get_rank() == 0:
            with atomic_directory(directory) as folder:
                model.config.anyglot_vocabulary = vocabulary.fingerprint
                if not vocabulary.marks:  # a backbone's own says where its turns end
                    model.generation_config = generation_config(vocabulary)
                state = whole_state(model)
                if has_lora(model):
                    save_adapter(model, state, folder / "adapter")
                model.save_pretrained(folder, state_dict=merged_state(model, state))
                vocabulary.save(folder)
                if TEXT in tokenizers:
                    text = TextTokenizer.from_pretrained(tokenizers[TEXT])
                    if vocabulary.marks:  # the backbone's own tokenizer, with its chat template
                        text.write_files(folder)
                    else:
                        save_text(folder, text, vocabulary, model.config.max_position_embeddings)
                if depth is not None:
                    depth.save(folder)
                for name, source in tokenizers.items():
                    shutil.copytree(source, folder / "tokenizers" / name)
    dist.barrier()
