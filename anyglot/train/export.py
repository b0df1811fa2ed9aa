"""The model for others: a plain Hugging Face directory in safetensors, with vocabulary and tokenizers beside it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

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
    import torch.distributed as dist
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of writing a single file
    model, depth = engine.module.model, engine.module.depth
    gathered = [state_on_rank_0(part, engine.zero_optimization_stage()) for part in (model, depth)]
    if dist.get_rank() == 0:
        with atomic_directory(directory) as folder:
            model.config.anyglot_vocabulary = vocabulary.fingerprint
            if not vocabulary.marks:  # a backbone's own says where its turns end
                model.generation_config = generation_config(vocabulary)
            state = whole_state(model, gathered[0])
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
                depth.save(folder, gathered[1])
            for name, source in tokenizers.items():
                shutil.copytree(source, folder / "tokenizers" / name)
    dist.barrier()


def state_on_rank_0(module: nn.Module | None, zero_stage: int) -> dict[str, Tensor]:
    """A module's state dict in the memory of rank 0's machine, empty on the others. Every rank calls it.

    At ZeRO 3 parameters are gathered one by one, so that no device ever holds them all.
    """
    import deepspeed
    import torch.distributed as dist

    if module is None:
        return {}
    first = dist.get_rank() == 0
    whole: dict[int, Tensor] = {}  # by parameter: tied ones are one tensor
    for parameter in module.parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=zero_stage == 3):
            if first:
                whole[id(parameter)] = parameter.detach().to("cpu", copy=zero_stage == 3)
    if not first:
        return {}
    return {name: whole.get(id(value), value) for name, value in module.state_dict(keep_vars=True).items()}
