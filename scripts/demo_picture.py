"""One picture of what the demo's model made of words: a row for each modality.

python scripts/demo_picture.py runs/demo docs/images/demo.png
"""

import argparse
import io
import json
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from anyglot.eval.plots import spectrogram_png
from anyglot.tokenizers.clips import read_clip

ROWS = {"image": 6, "speech": 6, "video": 3, "motion": 3, "graph": 6, "item": 6}  # modality -> samples shown
COLUMNS = 6
FRAMES = 4  # of a film, in the room of two columns


def main() -> None:
    """Draw the first answers of each direction from text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished demo")
    parser.add_argument("out", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    folder = arguments.run / "eval/lm"
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    figure = plt.figure(figsize=(11, 9.5), dpi=110)
    grid = figure.add_gridspec(len(ROWS), COLUMNS, hspace=0.55, wspace=0.15)
    for row, (modality, number) in enumerate(ROWS.items()):
        wide = COLUMNS // number
        for column, sample in enumerate(samples[f"text_to_{modality}.seen"][:number]):
            axes = figure.add_subplot(grid[row, column * wide : (column + 1) * wide])
            axes.set_axis_off()
            title = textwrap.fill(sample["prompt"]["text"].split(" Genres")[0], 24 * wide)
            axes.set_title(title, fontsize=7, color="black" if sample["right"] else "firebrick")
            if sample["answer"] is not None:
                draw(axes, folder / sample["answer"]["path"])
    figure.savefig(arguments.out, bbox_inches="tight")


def draw(axes: plt.Axes, path: Path) -> None:
    """Show a medium: a picture, the spectrogram of a sound, frames of a film, or words."""
    if path.suffix == ".txt":
        axes.text(0, 0.5, textwrap.fill(path.read_text("utf-8").strip(), 22), fontsize=7, va="center")
    elif path.suffix == ".wav":
        axes.imshow(np.array(Image.open(io.BytesIO(spectrogram_png(path)))), aspect="auto")
    elif path.suffix == ".mp4":
        clip = read_clip(path, fps=0, shorter_side=0, max_pixels=2**22, max_frames=10_000)
        chosen = clip[np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)]
        axes.imshow(np.concatenate(list(chosen), axis=1))
    else:
        axes.imshow(np.array(Image.open(path).convert("RGB")))


if __name__ == "__main__":
    main()
