"""Writing ids one by one under the grammar: requests of all kinds side by side, joining and leaving between steps."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.inference.decode import Progress, Request
from anyglot.inference.guidance import rows_of
from anyglot.inference.head import cut_of, logits_of
from anyglot.inference.sampling import SamplingConfig, noise_keys, penalise, sample
from anyglot.lm.automaton import Ranges

if TYPE_CHECKING:
    from anyglot.inference.decoder import Decoder


@dataclass(frozen=True)
class Written:
    """What a step wrote of one request. finish: "" while it goes on; "stop": the model ended it, or all spans that were
    asked for are there; "length": max_tokens or the positions ended it; "cancelled"."""

    ticket: int
    ids: tuple[int, ...]
    finish: str = ""


@dataclass(eq=False)
class _Row:
    """One row of the forward. unread: ids that it has still to read. weight: of its logits among its request's."""

    job: "_Job"
    unread: list[int]
    weight: float
    slot: int = -1


@dataclass(eq=False)
class _Job:
    """One request. Its rows, its own prompt's first, write the same ids."""

    ticket: int
    progress: Progress
    rows: list[_Row]


class Engine:
    """Continuous batching over the slots of one static cache (Orca, OSDI 2022; Sarathi, arXiv 2308.16369, for chunks).

    Requests wait in the order in which they came; one that needs several rows (guidance) begins when all find a slot.
    What a request gets depends on nothing beside it (to rounding). Not for several threads at a time.

    Args:
        decoder: the model, and its settings for requests that bring none.
        slots: rows of one forward. length: positions of a row, 0 for the model's own. chunk: ids of prompts that a
            step reads beside the writing of the others. reserve: set memory aside for slots x length at once, so that
            it cannot run out later; False: as much as the longest row so far has come to need.
    """

    def __init__(
        self, decoder: "Decoder", slots: int = 8, length: int = 0, chunk: int = 128, reserve: bool = True
    ) -> None:
        if slots < 1 or length < 0 or chunk < 1:
            raise ConfigError(f"an engine needs slots and chunk of 1 or more, got {slots} and {chunk}; length {length}")
        self.decoder = decoder
        self.slots, self.chunk = slots, chunk
        self.length = min(length or decoder.limit, decoder.limit)
        self._reader = decoder.reader(slots, self.length if reserve else 0)
        self._queue: deque[_Job] = deque()
        self._rows: list[_Row] = []  # by slot: first those that are written, then those whose prompts are being read
        self._writing = 0  # how many of them are written
        self._cancelled: list[int] = []  # tickets of which the next step tells
        self._tickets = 0

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do or to tell."""
        return bool(self._queue or self._rows or self._cancelled)

    @property
    def running(self) -> int:
        """Requests that have slots."""
        return len({row.job.ticket for row in self._rows})

    @property
    def waiting(self) -> int:
        """Requests that wait for slots."""
        return len(self._queue)

    def submit(self, request: Request) -> int:
        """Queue a request; return its ticket.

        Raises:
            AnyglotError: it can never be served: no room for an answer, more rows than slots, settings that are none.
            GrammarError: a prompt is not a document's start.
        """
        rows = rows_of(self.decoder.automaton, request)
        if len(rows) > self.slots:
            raise AnyglotError(f"guidance by {len(rows)} prompts at once, there are {self.slots} slots; ask for fewer")
        longest = max(len(prompt) for prompt, _ in rows)
        job = _Job(self._tickets, self.decoder.constraints.begin(request, self.length, longest), [])
        job.rows = [_Row(job, list(prompt), weight) for prompt, weight in rows]
        self._tickets += 1
        self._queue.append(job)
        return job.ticket

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """Forget a request; the next step says that it is "cancelled". Unknown and finished tickets are ignored."""
        for job in {row.job for row in self._rows} | set(self._queue):
            if job.ticket == ticket:
                if job in self._queue:
                    self._queue.remove(job)
                else:
                    self._leave(job)
                self._cancelled.append(ticket)

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Admit what waits, read on in new prompts, and write one id of every request whose prompts have been read."""
        told = [Written(ticket, (), "cancelled") for ticket in self._cancelled]
        self._cancelled.clear()
        self._admit()
        self._read_prompts()
        return told + (self._write() if self._writing else [])

    def _admit(self) -> None:
        while self._queue and len(self._rows) + len(self._queue[0].rows) <= self.slots:
            for row in self._queue.popleft().rows:
                row.slot = len(self._rows)
                self._rows.append(row)
                self._reader.clear(row.slot)

    def _read_prompts(self) -> None:
        """Read a chunk of prompts, first come first served, but for their last ids: these are read with all others."""
        reading = sorted(self._rows[self._writing :], key=lambda row: row.job.ticket)
        unread = [row for row in reading if len(row.unread) > 1]
        if unread:
            width = min(len(unread[0].unread) - 1, self.chunk)
            unread = unread[: max(self.chunk // width, 1)]
            parts = [row.unread[: min(width, len(row.unread) - 1)] for row in unread]
            self._reader.read([row.slot for row in unread], parts)
            for row, part in zip(unread, parts, strict=True):
                del row.unread[: len(part)]
        for row in reading:
            if all(len(other.unread) == 1 for other in row.job.rows):
                self._swap(row.slot, self._writing)
                self._writing += 1

    def _write(self) -> list[Written]:
        rows = self._rows[: self._writing]
        hidden = self._reader.read(range(len(rows)), [row.unread for row in rows])
        jobs = list(dict.fromkeys(row.job for row in rows))
        written = []
        for job, token in zip(jobs, self._choose(jobs, hidden), strict=True):
            self.decoder.constraints.take(job.progress, token)
            for row in job.rows:
                row.unread = [token]
            finish = ("length" if job.progress.cut else "stop") if job.progress.done else ""
            written.append(Written(job.ticket, (token,), finish))
            if finish:
                self._leave(job)
        return written

    def _choose(self, jobs: Sequence[_Job], hidden: Tensor) -> list[int]:
        """The next id of every request. The head is evaluated only on the ids that may come next."""
        chosen: dict[_Job, int] = {}
        together: dict[Ranges, list[_Job]] = {}
        for job in jobs:
            ranges, cut = self.decoder.constraints.ranges_of(job.progress)
            job.progress.cut |= cut
            if len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1:  # forced: nothing to sample
                chosen[job] = ranges[0][0]
            else:
                together.setdefault(ranges, []).append(job)
        for ranges, members in together.items():
            cut_head = cut_of(ranges, hidden.device)
            rows = [[row for row in job.rows if row is job.rows[0] or _is_guided(job)] for job in members]
            slots = [row.slot for of_job in rows for row in of_job]
            logits = logits_of(hidden[slots], self.decoder.head, self.decoder.softcap, cut_head)
            if len(slots) > len(members):
                logits = _mixing(rows).to(logits) @ logits
            chosen |= zip(members, self._sample(members, logits, cut_head.ids), strict=True)
        return [chosen[job] for job in jobs]

    def _sample(self, jobs: Sequence[_Job], logits: Tensor, ids: Tensor) -> list[int]:
        """One of `ids` `[choices]` for each job, of logits `[jobs, choices]`."""
        alike: dict[tuple[float, int, float], list[int]] = {}
        settings = [self._settings(job.progress) for job in jobs]
        for place, (job, config) in enumerate(zip(jobs, settings, strict=True)):
            seen = job.progress.codes if job.progress.state.modality else job.progress.text
            if seen and config.repetition_penalty != 1:
                penalise(logits[place], ids, seen, config.repetition_penalty)
            alike.setdefault((config.temperature, config.top_k, config.top_p), []).append(place)
        seeds, steps = zip(*((job.progress.request.seed, len(job.progress.written)) for job in jobs), strict=True)
        keys = noise_keys(seeds, steps, logits.device)
        chosen = keys.new_empty(len(jobs))
        for places in alike.values():
            chosen[places] = ids[sample(logits[places], settings[places[0]], ids, keys[places])]
        numbers: list[int] = chosen.tolist()
        return numbers

    def _settings(self, progress: Progress) -> SamplingConfig:
        name = self.decoder.vocabulary.modality_names[progress.state.modality]
        return progress.request.sampling.get(name) or self.decoder.sampling.get(name, self.decoder.default)

    def _leave(self, job: _Job) -> None:
        """Free a request's slots. Rows that are written stay in front, and no slot between rows stays empty."""
        for row in job.rows:
            self._reader.clear(row.slot)
            if row.slot < self._writing:
                self._writing -= 1
                self._swap(row.slot, self._writing)
            self._swap(row.slot, len(self._rows) - 1)
            self._rows.pop()

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self._reader.swap(one, other)
            self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
            self._rows[one].slot, self._rows[other].slot = one, other


def _is_guided(job: _Job) -> bool:
    return bool(job.progress.state.modality) or job.progress.request.guide_text


def _mixing(rows: Sequence[Sequence[_Row]]) -> Tensor:
    """The weights `[jobs, rows]` of every job's rows, one after the other; a row that is alone counts whole."""
    weights = torch.zeros(len(rows), sum(map(len, rows)))
    first = 0
    for number, of_job in enumerate(rows):
        for place, row in enumerate(of_job, start=first):
            weights[number, place] = row.weight if len(of_job) > 1 else 1.0
        first += len(of_job)
    return weights
