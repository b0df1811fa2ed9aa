"""How well the video tokenizers of video/moves and demo/video code films that were held out.

    anyglot fetch moves --out runs/moves
    anyglot train video/moves 'data.files=[runs/moves/moves.jsonl]' out=runs/video_moves
    python scripts/bench_video.py runs/video_moves/tokenizer [MORE ...] [--items N] [--out docs/results]

Held-out films of runs/moves, beside what a still picture of each gets; whether a stream gives the codes and frames of
the whole; films above their reconstructions by the first tokenizer. Writes video.json, video.md and video.png.
"""

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.eval.video import evaluate
from anyglot.files import atomic_path, write_json, write_text
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.video import VideoTokenizer
from anyglot.train.media import MediaCorpus, find_parts

SHOWN, FRAMES = 6, 8  # films of the picture, and frames of each
FIGURES = {
    "psnr_heldout": "PSNR, dB",
    "mean_picture_psnr_heldout": "of the mean picture",
    "mean_colour_psnr_heldout": "of the mean colour",
    "first_frame_psnr_heldout": "first frames as pictures",
    "ssim_heldout": "SSIM",
    "change_error_heldout": "change error",
    "values_per_code": "values per code",
    "pixels_per_code": "pixels per code",
    "codebook_usage": "codes used",
    "stream_difference": "stream less whole",
}


def stream_difference(tokenizer: VideoTokenizer, clip: np.ndarray) -> float:
    """Largest difference of streamed and whole frames in [-1, 1]; infinite if a code differs."""
    frames = torch.from_numpy(clip)[None].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    codes, _ = tokenizer.encode_stream(frames)
    whole, _ = tokenizer.decode_stream(codes)
    state, parts, draw, drawn = None, [], None, []
    for frame in frames.split(1, dim=2):
        found, state = tokenizer.encode_stream(frame, state)
        if found.shape[1]:
            parts.append(found)
            picture, draw = tokenizer.decode_stream(found, draw)
            drawn.append(picture)
    if not torch.equal(torch.cat(parts, 1), codes):
        return float("inf")
    return float((torch.cat(drawn, 2) - whole).abs().max())


def strip(tokenizer: VideoTokenizer, clips: list[np.ndarray]) -> np.ndarray:
    """Frames of clips side by side, each row above its reconstruction."""
    rows = []
    for clip, drawn in zip(clips, tokenizer.decode(tokenizer.encode(clips)), strict=True):
        times = np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)
        height, width = clip.shape[1:3]
        rows += [np.concatenate(list(x[times][:, :height, :width]), 1) for x in (clip, drawn)]
    return np.concatenate(rows, 0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tokenizers", nargs="+", type=Path)
    arguments.add_argument("--films", default="runs/moves/moves.jsonl")
    arguments.add_argument("--items", type=int, default=0, help="films measured, evenly spread; 0: all")
    arguments.add_argument("--out", type=Path, default=Path("docs/results"))
    options = arguments.parse_args()
    from PIL import Image

    results: dict[str, dict[str, Any]] = {}
    for number, directory in enumerate(options.tokenizers):
        tokenizer = load_tokenizer(directory)
        assert isinstance(tokenizer, VideoTokenizer)
        heldout, train = (find_parts([options.films], "video", split) for split in ("heldout", "train"))
        every = max(1, len(heldout) // (options.items or len(heldout)))
        films = MediaCorpus(heldout[::every], tokenizer, 0)[:]
        figures = evaluate(tokenizer, films, usage_of=MediaCorpus(train[::6], tokenizer, 0)[:])
        figures["stream_difference"] = stream_difference(tokenizer, max(films, key=len))
        results[str(directory)] = figures
        if number == 0:
            long = [film for film in films if len(film) >= FRAMES]
            with atomic_path(options.out.parent / "images" / "video.png") as temporary:
                Image.fromarray(strip(tokenizer, long[:: max(1, len(long) // SHOWN)][:SHOWN])).save(temporary)
    about = {
        "command": " ".join(["python", "scripts/bench_video.py", *sys.argv[1:]]),
        "torch": version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }
    write_json(options.out / "video.json", {**about, "results": results})
    head = "| tokenizer | " + " | ".join(FIGURES.values()) + " |\n|" + "---|" * (len(FIGURES) + 1) + "\n"
    lines = [f"| {name} | " + " | ".join(f"{f[key]:.4g}" for key in FIGURES) + " |" for name, f in results.items()]
    write_text(
        options.out / "video.md", f"# Video tokenizers\n\n`{about['command']}`\n\n{head}" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
