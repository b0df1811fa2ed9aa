"""The thread that drives the engine: all that is asked for comes back, who leaves frees a place, failures are told."""

import asyncio
import threading
from contextlib import aclosing

import pytest

from anyglot.errors import AnyglotError
from anyglot.inference.decode import Request
from anyglot.inference.server.errors import Broken, Busy
from anyglot.inference.server.worker import Worker
from tests.inference.server.serving import ScriptedEngine


def counting(request):
    """As many ids as the prompt's first says, from its seed on."""
    return [request.seed + i for i in range(request.prompt[0])]


async def written(worker, *requests):
    found = {index: [] for index in range(len(requests))}
    async with aclosing(worker.write(requests)) as batches:
        async for pieces in batches:
            for piece in pieces:
                found[piece.index] += piece.ids
                if piece.finish:
                    found[piece.index].append(piece.finish)
    return list(found.values())


def with_worker(engine, body, most=100):
    async def main():
        worker = Worker(engine, most)
        worker.start()
        try:
            return await body(worker)
        finally:
            await worker.stop()
            assert not any(thread.name == "engine" for thread in threading.enumerate())

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_every_request_gets_what_was_written_for_it():
    async def body(worker):
        calls = [written(worker, Request([i % 7 + 1], seed=100 * i), Request([3], seed=-i)) for i in range(60)]
        return await asyncio.gather(*calls)

    for i, (one, other) in enumerate(with_worker(ScriptedEngine(counting, slots=5), body)):
        assert one == [*range(100 * i, 100 * i + i % 7 + 1), "stop"]
        assert other == [-i, 1 - i, 2 - i, "stop"]


def test_whoever_leaves_is_cancelled_and_others_go_on():
    engine = ScriptedEngine(counting, slots=2)
    engine.hold.set()

    async def body(worker):
        leaving = [asyncio.ensure_future(written(worker, Request([5]), Request([5]))) for _ in range(3)]
        while engine.running < 2 or engine.waiting < 4:
            await asyncio.sleep(0.002)
        for task in leaving[:2]:
            task.cancel()
        while engine.waiting:
            await asyncio.sleep(0.002)
        assert sorted(engine.cancelled) == [0, 1, 2, 3]
        engine.hold.clear()
        return await leaving[2]

    assert with_worker(engine, body) == [[0, 1, 2, 3, 4, "stop"]] * 2


def test_a_request_that_cannot_be_served_takes_the_others_of_its_call_with_it():
    engine = ScriptedEngine(counting)

    async def body(worker):
        with pytest.raises(AnyglotError, match="too long"):
            await written(worker, Request([5]), Request([5] * 3000))
        return await written(worker, Request([1]))

    assert with_worker(engine, body) == [[0, "stop"]]
    assert engine.cancelled == [0]


def test_a_request_that_trips_the_engine_takes_nobody_else_with_it():
    engine = ScriptedEngine(counting)

    async def body(worker):
        with pytest.raises(TypeError):
            await written(worker, Request([None]))
        return await written(worker, Request([1]))

    assert with_worker(engine, body) == [[0, "stop"]]


def test_claims_are_limited_and_given_back():
    async def body(worker):
        with worker.claim(3):
            with pytest.raises(Busy), worker.claim(2):
                pass
            with worker.claim(1):
                pass
        with worker.claim(4):
            pass

    with_worker(ScriptedEngine(counting), body, most=4)


def test_an_engine_that_fails_is_told_to_all_and_not_asked_again():
    engine = ScriptedEngine(counting)

    async def body(worker):
        engine.hold.set()
        tasks = [asyncio.ensure_future(written(worker, Request([5]))) for _ in range(3)]
        while not engine.running:
            await asyncio.sleep(0.002)
        engine.breaks = True
        for task in tasks:
            with pytest.raises(Broken):
                await task
        assert not worker.healthy
        with pytest.raises(Broken):
            await written(worker, Request([1]))
        with pytest.raises(Broken), worker.claim(1):
            pass

    with_worker(engine, body)


def test_stopping_ends_what_is_written():
    engine = ScriptedEngine(counting)
    engine.hold.set()

    async def body(worker):
        task = asyncio.ensure_future(written(worker, Request([5])))
        while not engine.running:
            await asyncio.sleep(0.002)
        await worker.stop()
        with pytest.raises(Broken):
            await task

    with_worker(engine, body)
