"""A language model's text by EleutherAI's lm-evaluation-harness.

An Anyglot checkpoint is asked by its own engine, any other Hugging Face directory through the harness's `hf`. Beside
the harness's own tasks, most of which it downloads, two are made of the documents at hand and need no network:
    paragraphs  bits per byte of held-out text
    last_words  the last word of a paragraph from all before it, by greedy choice (as LAMBADA, arXiv:1606.06031)
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.documents import load_documents, spread, text_of
from anyglot.eval.harness_model import harness_model
from anyglot.files import write_json, write_text
from anyglot.lm.vocabulary import FILE as VOCABULARY
from anyglot.train.device import local_device

LOCAL = ("paragraphs", "last_words")
BACKENDS = ("auto", "hf")
SHORTEST = 12  # words of a paragraph whose last word is asked for


@dataclass
class HarnessEval:
    """What to measure.

    models: name -> directory of an Anyglot checkpoint, or of another Hugging Face model. backend: "hf" asks Anyglot
    checkpoints through the harness's `hf`, too, so that a backbone and what was made of it are read in the same way.
    tasks: "paragraphs" and "last_words", and names of the harness's own.
    documents: files of documents, for the first two; split: of these, "" for all. limit: documents of each task, evenly
    spaced, 0 for all. batch: how many at once. out: folder for metrics.json.
    """

    kind: str
    out: str
    models: dict[str, str]
    tasks: list[str] = field(default_factory=lambda: list(LOCAL))
    documents: list[str] = field(default_factory=list)
    split: str = "heldout"
    limit: int = 0
    batch: int = 8
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend is {self.backend!r}, must be one of: {', '.join(BACKENDS)}")
        if not self.models or not self.tasks or self.limit < 0 or self.batch < 1:
            raise ConfigError("models and tasks need one entry or more, limit must be at least 0, batch at least 1")
        if set(self.tasks) & set(LOCAL) and not self.documents:
            raise ConfigError(f"the tasks {' and '.join(LOCAL)} are made of `documents`; name the files")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures `<model>.<task>.<metric>`.

    Raises AnyglotError: no usable document, or a task that the harness does not know.
    """
    config = typed(HarnessEval, mapping, where)
    out = Path(config.out)
    tasks = [local_task(task, config, out) if task in LOCAL else task for task in config.tasks]
    figures: dict[str, float] = {}
    for name, directory in config.models.items():
        for task, metrics in measure(Path(directory), tasks, config).items():
            figures |= {f"{name}.{task}.{metric}": value for metric, value in metrics.items()}
    write_json(out / "metrics.json", figures)
    return figures


def measure(directory: Path, tasks: Sequence[Any], config: HarnessEval) -> dict[str, dict[str, float]]:
    """The harness's figures of one model: task -> metric -> value."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = config.backend == "auto" and (directory / VOCABULARY).is_file()
    if not own and not (directory / "tokenizer_config.json").is_file():
        raise AnyglotError(
            f"{directory}: no Hugging Face model with its tokenizer (tokenizer_config.json is missing)"
            + (f", and no Anyglot checkpoint ({VOCABULARY} is missing)" if config.backend == "auto" else "")
        )
    plain = {"pretrained": str(directory), "device": str(local_device()), "dtype": "auto"}
    try:
        found = lm_eval.simple_evaluate(
            model=harness_model(directory, config.batch) if own else "hf",
            model_args=None if own else plain,
            tasks=list(tasks),
            task_manager=TaskManager(include_defaults=any(isinstance(task, str) for task in tasks)),  # which takes long
            batch_size=config.batch,
            limit=config.limit or None,
            bootstrap_iters=0,
            log_samples=False,
        )
    except (KeyError, ValueError) as error:  # a task that it does not know
        raise AnyglotError(f"the harness refuses: {' '.join(str(error).split())[:300]}") from error
    return {
        task: {
            name.partition(",")[0]: float(value)  # "metric,filter"
            for name, value in values.items()
            if "," in name and "_stderr" not in name
        }
        for task, values in found["results"].items()
    }


def local_task(task: str, config: HarnessEval, out: Path) -> dict[str, Any]:
    """One of the local tasks as the harness takes it, its records written to `<out>/<task>.jsonl`."""
    documents = load_documents(config.documents)
    texts = [text_of(document) for document in documents if not config.split or document.split == config.split]
    records = spread(_records(task, texts), config.limit)
    if not records:
        raise AnyglotError(f"{task}: nothing for it among documents of split {config.split!r} in {config.documents}")
    path = out / f"{task}.jsonl"
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    described: dict[str, Any] = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path.resolve())}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{target}}",
    }
    metrics: list[dict[str, Any]]
    if task == "paragraphs":
        metrics = [{"metric": "bits_per_byte"}]
        return described | {"output_type": "loglikelihood_rolling", "metric_list": metrics}
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "perplexity"}]
    return described | {"output_type": "loglikelihood", "target_delimiter": "", "metric_list": metrics}


def _records(task: str, texts: Sequence[str]) -> list[Mapping[str, str]]:
    if task == "paragraphs":
        return [{"context": "", "target": text} for text in texts if text.strip()]
    found: list[Mapping[str, str]] = []
    for text in texts:
        match = re.fullmatch(r"(.*\S)(\s+[^\W\d_]+)[.!?]?", text.strip(), flags=re.DOTALL)
        if match and len(match[1].split()) >= SHORTEST:
            found.append({"context": match[1], "target": " " + match[2].strip()})
    return found
