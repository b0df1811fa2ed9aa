"""A server under load: many conversations at once, some of which leave in the middle. None may be lost, and its memory
may not grow.

    python scripts/bench_serve.py --checkpoint runs/demo/lm --clients 200 --minutes 10

Each client asks again as soon as it has been answered, with a picture in every fourth question; one in ten hangs up
after the first chunk. Written to docs/results/serve.json: answers, lost ones, seconds to the first chunk, tokens a
second, and the server's memory every second.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from anyglot.files import write_json

OUT = Path(__file__).parents[1] / "docs" / "results" / "serve.json"
SETTLED = 0.25  # of the time, after which memory should not grow any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=32, help="of one answer, at most")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, default=OUT)
    words = parser.parse_args()
    command = [sys.executable, "-m", "anyglot", "serve", str(words.checkpoint), "name=bench"]
    server = subprocess.Popen(
        [*command, f"port={words.port}", f"slots={words.slots}", f"limits.requests={words.clients}"]
    )
    try:
        found = asyncio.run(_load(f"http://127.0.0.1:{words.port}", server.pid, words))
    finally:
        server.terminate()
        server.wait(30)
    print(json.dumps({key: value for key, value in found.items() if key != "memory_mib"}, indent=1))
    write_json(words.out, found)


async def _load(address: str, pid: int, words: argparse.Namespace) -> dict:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        await _until_ready(client)
        end = time.monotonic() + 60 * words.minutes
        found: dict[str, list] = {"first": [], "whole": [], "lost": [], "left": [], "memory": []}
        watch = asyncio.ensure_future(_watch(pid, end, found["memory"]))
        began = time.monotonic()
        await asyncio.gather(*(_converse(client, number, end, words.tokens, found) for number in range(words.clients)))
        seconds = time.monotonic() - began
        watch.cancel()
        health = (await client.get("/health")).json()
        counts = (await client.get("/metrics")).text
    written = float(
        next(line for line in counts.splitlines() if line.startswith("anyglot_written_tokens_total")).split()[1]
    )
    settled = found["memory"][int(SETTLED * len(found["memory"])) :]
    return {
        "clients": words.clients,
        "slots": words.slots,
        "seconds": round(seconds, 1),
        "cores": len(os.sched_getaffinity(0)),
        "answers": len(found["whole"]),
        "left_in_the_middle": len(found["left"]),
        "lost": len(found["lost"]),
        "reasons": sorted(set(found["lost"]))[:5],
        "tokens_per_second": round(written / seconds, 1),
        "first_chunk_seconds": _quantiles(found["first"]),
        "answer_seconds": _quantiles(found["whole"]),
        "health_after": health,
        "memory_growth_mib": round(settled[-1] - settled[0], 1),
        "memory_mib": found["memory"],
    }


async def _converse(client: httpx.AsyncClient, number: int, end: float, tokens: int, found: dict[str, list]) -> None:
    chance = random.Random(number)
    turn = 0
    while time.monotonic() < end:
        turn += 1
        began = time.monotonic()
        leaves, first = chance.random() < 0.1, True
        try:
            async with client.stream("POST", "/v1/chat/completions", json=_question(number, turn, tokens)) as response:
                if response.status_code != 200:
                    found["lost"].append(f"status {response.status_code}: {(await response.aread())[:200]!r}")
                    continue
                last = ""
                async for line in response.aiter_lines():
                    if first:
                        found["first"].append(time.monotonic() - began)
                        first = False
                    if leaves:
                        break
                    last = line or last
            if leaves:
                found["left"].append(number)
            elif last == "data: [DONE]":
                found["whole"].append(time.monotonic() - began)
            else:
                found["lost"].append(f"ended with {last[:100]}")
        except httpx.HTTPError as error:
            found["lost"].append(type(error).__name__)


def _question(number: int, turn: int, tokens: int) -> dict:
    content: list[dict] = [{"type": "text", "text": f"draw {number} {turn}"}]
    if turn % 4 == 0:
        content.append({"type": "image_url", "image_url": {"url": _picture(number)}})
    message = {"role": "user", "content": content}
    return {"model": "bench", "messages": [message], "max_tokens": tokens, "seed": number, "stream": True}


def _picture(seed: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit("the server did not start")


async def _watch(pid: int, end: float, memory: list[float]) -> None:
    """The server's resident memory in MiB, every second."""
    while time.monotonic() < end:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        memory.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))
        await asyncio.sleep(1)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(seconds or [0], q)), 3) for name, q in (("p50", 0.5), ("p95", 0.95))}


if __name__ == "__main__":
    main()
