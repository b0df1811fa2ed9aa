"""`anyglot tokenize`: documents to token shards, in parallel and resumable.

The output folder holds `vocabulary.json`, `manifest.json`, `errors.jsonl`, `log.jsonl` (progress), and for each source
a folder of shards. A shard is made of one slice of one input file; it is kept by later runs as long as the slice, the
options and the fingerprints that made it are the same.
"""

import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from anyglot import __version__
from anyglot.config import typed
from anyglot.data import readers
from anyglot.data.checkpoint import read_checkpoint
from anyglot.data.documents import Document
from anyglot.data.encode import Encoder
from anyglot.data.readers import Problem
from anyglot.data.shards import ShardInfo, read_shard, write_shard
from anyglot.data.sources import Job, SourceConfig, TokenizeConfig, plan_jobs
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.files import write_json, write_text
from anyglot.lm.grammar import Serialised
from anyglot.lm.vocabulary import TEXT, Vocabulary
from anyglot.tokenizers.base import load_tokenizer, read_manifest
from anyglot.tokenizers.spec import CodeSpec
from anyglot.tokenizers.text import TextTokenizer

CHUNK = 8  # batches of documents in memory at once: those of tars and Parquet hold the bytes of their media


@dataclass(frozen=True)
class Tools:
    """What a worker loads once. tokenizers: (modality, directory) pairs."""

    vocabulary: str
    text: str
    tokenizers: tuple[tuple[str, str], ...]
    batch: int
    max_document: int
    device: str


def run(mapping: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Tokenise what a config describes and return the manifest that was written.

    Run again, it keeps the shards that are whole and still right, and makes the others.
    Raises:
        ConfigError: a mistake in the config.
        MismatchError: a tokenizer that is not the vocabulary's, or an output folder of another vocabulary.
        AnyglotError: a file or tokenizer that is missing, or not one document that could be used.
    """
    config = typed(TokenizeConfig, mapping, where)
    if config.checkpoint:
        checkpoint = read_checkpoint(config.checkpoint)
        config.text, config.vocabulary = checkpoint.tokenizers.pop(TEXT), str(checkpoint.directory)
        config.tokenizers = checkpoint.tokenizers
    out = Path(config.out)
    vocabulary = _vocabulary(config)
    out.mkdir(parents=True, exist_ok=True)
    vocabulary.save(out)
    jobs = [
        job
        for name, source in config.sources.items()
        for job in plan_jobs(config, vocabulary.fingerprint, name, source)
    ]
    _remove_leftovers(out, jobs)
    infos = {job.path: info for job in jobs if (info := _finished(job))}
    todo = [job for job in jobs if job.path not in infos]
    if todo:  # a manifest says that all is finished
        (out / "manifest.json").unlink(missing_ok=True)
    for job, info in _make(todo, config, jobs, infos):
        infos[job.path] = info
    return _conclude(config, vocabulary, jobs, infos)


def _vocabulary(config: TokenizeConfig) -> Vocabulary:
    """The vocabulary to write ids of: a given one, or a new one; never another than the output folder's own."""
    text = TextTokenizer.from_pretrained(config.text)
    manifests = {name: read_manifest(directory) for name, directory in config.tokenizers.items()}
    for name, manifest in manifests.items():
        if manifest["modality"] != name:
            raise ConfigError(f"tokenizers.{name}: {config.tokenizers[name]} is a tokenizer for {manifest['modality']}")
    fingerprints = {name: str(manifest["fingerprint"]) for name, manifest in manifests.items()}
    if config.vocabulary:
        vocabulary = Vocabulary.load(config.vocabulary, {TEXT: text.fingerprint} | fingerprints)
    else:
        specs = [(CodeSpec.from_json(manifest["spec"]), fingerprints[name]) for name, manifest in manifests.items()]
        vocabulary = Vocabulary.build(
            text.size, text.fingerprint, specs, config.max_size, config.streams, config.factors, text.marks
        )
    there = Path(config.out) / "vocabulary.json"
    if there.exists() and (found := Vocabulary.load(there)).fingerprint != vocabulary.fingerprint:
        raise MismatchError(
            f"{config.out} holds tokens of vocabulary {found.fingerprint}, but this config gives "
            f"{vocabulary.fingerprint}; delete the folder or write to another `out`"
        )
    return vocabulary


def _finished(job: Job) -> ShardInfo | None:
    """What a shard of an earlier run says, if it is whole and still what this job would make."""
    try:
        info = read_shard(job.path)[0] if job.path.exists() else None
    except AnyglotError as error:
        logging.getLogger(__name__).warning("%s; made again", error)
        return None
    return info if info and info.job == job.hash else None


def _remove_leftovers(out: Path, jobs: Sequence[Job]) -> None:
    """Delete half-written files of a killed run, and shards that no job of this one makes."""
    wanted = {job.path for job in jobs}
    for folder in {job.path.parent for job in jobs}:
        for path in [*folder.glob(".*.arrow"), *folder.glob("[0-9]*.arrow")]:
            if path not in wanted:
                path.unlink()


def _make(
    todo: Sequence[Job], config: TokenizeConfig, jobs: Sequence[Job], kept: Mapping[Path, ShardInfo]
) -> Iterator[tuple[Job, ShardInfo]]:
    """Make shards, showing progress, and yield each as it is finished."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
    console = Console(stderr=True)
    started = time.time()
    documents, tokens, skipped = 0, 0, 0
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("tokenize", total=len(jobs), completed=len(kept), note=f"{len(kept)} shards kept")
        for done, (job, info) in enumerate(_results(todo, config), start=len(kept) + 1):
            documents, tokens = documents + info.documents, tokens + info.tokens
            skipped += len(info.problems)
            note = f"{documents:,} documents, {tokens:,} tokens, {skipped:,} problems"
            bar.update(task, advance=1, description=f"tokenize {job.source}", note=note)
            line = {"step": done, "steps": len(jobs), "source": job.source, "documents": documents, "tokens": tokens}
            with (Path(config.out) / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "problems": skipped, "time": time.time() - started}) + "\n")
            yield job, info


def _results(todo: Sequence[Job], config: TokenizeConfig) -> Iterator[tuple[Job, ShardInfo]]:
    pairs = tuple(config.tokenizers.items())
    tools = Tools(config.out, config.text, pairs, config.batch, config.max_document, config.device)
    if config.ray:
        from anyglot.data.cluster import make_on_ray

        for index, info in make_on_ray([(job, config.sources[job.source], tools) for job in todo], config):
            yield todo[index], info
        return
    workers = min(config.workers or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        for job in todo:
            yield job, make_shard(job, config.sources[job.source], tools)
        return
    context = multiprocessing.get_context("spawn")  # forked children inherit locks of torch's threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(make_shard, job, config.sources[job.source], tools): job for job in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise AnyglotError(
                "a tokenizing process was killed, perhaps for want of memory; finished shards are kept: run the "
                "command again, with fewer `workers` or a smaller `batch` or `documents_per_shard`"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make_shard(job: Job, source: SourceConfig, tools: Tools) -> ShardInfo:
    """Tokenise one slice and write its shard. Runs in a worker."""
    encoder = _encoder(tools)
    done: list[tuple[str, Serialised]] = []
    problems: list[Problem] = []
    records, other_split = 0, 0
    reading = readers.read(job.part, source.schema, source.media)
    while chunk := list(islice(reading, tools.batch * CHUNK)):
        records += len(chunk)
        problems += [item for item in chunk if isinstance(item, Problem)]
        read = [item for item in chunk if isinstance(item, Document)]
        documents = [document for document in read if not source.split or document.split == source.split]
        other_split += len(read) - len(documents)
        made, failed = encoder.encode(documents, source.orders, source.on_bad_media == "drop_part")
        done += made
        problems += failed
    skipped = Counter(problem.kind for problem in problems)
    if other_split:
        skipped["other split"] = other_split
    vocabulary = encoder.vocabulary
    info = ShardInfo(
        job=job.hash,
        vocabulary=vocabulary.fingerprint,
        tokenizers={TEXT: vocabulary.text_fingerprint}
        | {m.spec.modality: m.fingerprint for m in vocabulary.modalities},
        source=asdict(job.part) | {"records": records},
        modalities=list(vocabulary.modality_names),
        skipped=dict(skipped),
        problems=[asdict(problem) for problem in problems],
    )
    return write_shard(job.path, done, info)


@lru_cache(maxsize=1)
def _encoder(tools: Tools) -> Encoder:
    if multiprocessing.parent_process() is not None:
        import torch

        torch.set_num_threads(1)
    tokenizers: dict[str, Any] = {name: load_tokenizer(directory) for name, directory in tools.tokenizers}
    if tools.device != "cpu":
        tokenizers = {name: tokenizer.to(tools.device) for name, tokenizer in tokenizers.items()}
    vocabulary = Vocabulary.load(tools.vocabulary)
    text = TextTokenizer.from_pretrained(tools.text)
    return Encoder(vocabulary, text, tokenizers, tools.batch, tools.max_document)


def _conclude(
    config: TokenizeConfig, vocabulary: Vocabulary, jobs: Sequence[Job], infos: Mapping[Path, ShardInfo]
) -> dict[str, Any]:
    """Write manifest.json and errors.jsonl, and print the summary."""
    manifest: dict[str, Any] = {"anyglot": __version__, "vocabulary": vocabulary.fingerprint}
    manifest["tokenizers"] = {TEXT: vocabulary.text_fingerprint}
    manifest["tokenizers"] |= {m.spec.modality: m.fingerprint for m in vocabulary.modalities}
    manifest["sources"] = {}
    for name in config.sources:
        of_this = [infos[job.path] for job in jobs if job.source == name]
        by_modality, skipped = Counter[str](), Counter[str]()
        for info in of_this:
            by_modality.update(info.by_modality)
            skipped.update(info.skipped)
        counts = {"shards": len(of_this), "records": sum(info.source["records"] for info in of_this)}
        counts |= {"documents": sum(i.documents for i in of_this), "tokens": sum(i.tokens for i in of_this)}
        manifest["sources"][name] = counts | {"by_modality": dict(by_modality), "skipped": dict(skipped)}
    problems = [{"source": job.source, **problem} for job in jobs for problem in infos[job.path].problems]
    write_text(Path(config.out) / "errors.jsonl", "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in problems))
    write_json(Path(config.out) / "manifest.json", manifest)
    _summarise(config, manifest, len(problems))
    for name, counts in manifest["sources"].items():
        if not counts["documents"]:
            first = next((f"{p['where']}: {p['reason']}" for p in problems if p["source"] == name), "")
            left_out = ", ".join(f"{number} {kind}" for kind, number in counts["skipped"].items())
            raise AnyglotError(
                f"source {name!r}: no document could be used ({left_out or 'no records'}). {first}".strip()
            )
    return manifest


def _summarise(config: TokenizeConfig, manifest: Mapping[str, Any], problems: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "documents", "tokens", "of these", "left out", title=f"tokens in {config.out}")
    for name, counts in manifest["sources"].items():
        modalities = ", ".join(f"{n:,} {modality}" for modality, n in counts["by_modality"].items() if n)
        left_out = ", ".join(f"{n:,} {kind}" for kind, n in counts["skipped"].items()) or "none"
        table.add_row(name, f"{counts['documents']:,}", f"{counts['tokens']:,}", modalities, left_out)
    console = Console(stderr=True)
    console.print(table)
    if problems:
        console.print(f"{problems:,} problems, each with its place and reason, are in {config.out}/errors.jsonl")
