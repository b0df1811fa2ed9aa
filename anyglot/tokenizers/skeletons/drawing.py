"""Moving stick figures as pictures, for people to look at."""

import numpy as np
from PIL import Image, ImageDraw

from anyglot.tokenizers.skeletons.figures import Figure

COLOURS = {"left": (40, 90, 200), "right": (210, 70, 40), "middle": (50, 50, 60)}
PAPER, FLOOR, GRID = (250, 250, 248), (214, 218, 214), 0.5  # colours; metres between the floor's lines
AZIMUTH, ELEVATION = 35.0, 12.0  # degrees from the figure's front to its left, and above it
LINES = 80  # of the floor each way, at most
FINER = 2  # drawn so many times as large, then shrunk


def draw(figure: Figure, motion: np.ndarray, side: int = 256) -> np.ndarray:
    """Pictures uint8 `[frames, side, side, 3]` of features `[frames, features]`, the whole way in view.

    Figures that stand are seen from before their left side, with the floor that their lowest point touches; those that
    only sign from before.
    """
    points = figure.joints(motion).astype(np.float64)
    seen = figure.seen(motion) if figure.seen else np.ones(points.shape[:2], bool)
    camera = _camera(figure)
    flat = points @ camera.T
    shown = flat[seen]
    floor = _floor(points) if figure.feet else np.zeros((0, 2, 3))
    low, high = shown[:, :2].min(0), shown[:, :2].max(0)
    if figure.head:
        head, radius = flat[:, figure.head[0], :2], figure.head[1]
        low, high = np.minimum(low, head.min(0) - radius), np.maximum(high, head.max(0) + radius)
    scale = 0.8 * side * FINER / max(float((high - low).max()), 1e-6)
    place = np.array([side * FINER / 2, side * FINER / 2])

    def pixels(found: np.ndarray) -> np.ndarray:
        return (found[..., :2] - (low + high) / 2) * (scale, -scale) + place

    frames = [
        _frame(figure, pixels(flat[frame]), scale, seen[frame], pixels(floor @ camera.T), side)
        for frame in range(len(points))
    ]
    return np.stack(frames)


def draw_bars(motion: np.ndarray, side: int = 256) -> np.ndarray:
    """Pictures uint8 `[frames, side, side, 3]` of any features `[frames, features]`: a bar each, up or down from the
    middle, which reaches the edge at three."""
    height = side * np.clip(motion / 6, -0.5, 0.5)
    columns = np.arange(side) * motion.shape[1] // side  # the feature that each column of the picture shows
    rows = side / 2 - np.arange(side)[:, None] - 0.5
    shown = height[:, columns][:, None]  # [frames, 1, side]
    inside = (np.sign(rows) == np.sign(shown)) & (np.abs(rows) < np.abs(shown))
    return np.where(inside[..., None], COLOURS["left"], PAPER).astype(np.uint8)


def _frame(
    figure: Figure, points: np.ndarray, scale: float, seen: np.ndarray, floor: np.ndarray, side: int
) -> np.ndarray:
    picture = Image.new("RGB", (side * FINER, side * FINER), PAPER)
    pen = ImageDraw.Draw(picture)
    for start, end in floor:
        pen.line([tuple(start), tuple(end)], fill=FLOOR, width=FINER)
    many = len(figure.limbs) > 30  # fingers: thinner lines
    width = max(1, round(side * FINER / (130 if many else 64)))
    for start, end, colour in figure.limbs:
        if seen[start] and seen[end]:
            pen.line([tuple(points[start]), tuple(points[end])], fill=COLOURS[colour], width=width, joint="curve")
    if figure.head:
        (x, y), radius = points[figure.head[0]], figure.head[1] * scale
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=COLOURS["middle"], width=width)
    for index in np.flatnonzero(seen):
        x, y = points[index]
        pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=COLOURS["middle"])
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _camera(figure: Figure) -> np.ndarray:
    """Rows: to the right of the picture, up in it, towards the eye."""
    azimuth, elevation = (np.radians(AZIMUTH), np.radians(ELEVATION)) if figure.feet else (0.0, 0.0)
    ahead = np.array(figure.facing, dtype=np.float64)
    left = np.cross((0.0, 1.0, 0.0), ahead)
    level = np.cos(azimuth) * ahead + np.sin(azimuth) * left
    eye = np.cos(elevation) * level + np.sin(elevation) * np.array((0.0, 1.0, 0.0))
    right = np.cross((0.0, 1.0, 0.0), level)
    return np.stack([right, np.cross(eye, right), eye])


def _floor(points: np.ndarray) -> np.ndarray:
    """Ends `[lines, 2, 3]` of the floor's lines around the figure's way."""
    low, high = points[..., [0, 2]].min((0, 1)) - 0.2, points[..., [0, 2]].max((0, 1)) + 0.2
    grid = GRID * max(1.0, np.ceil((high - low).max() / (GRID * LINES)))  # wider where a figure flies away
    low, high = np.floor(low / grid) * grid, np.ceil(high / grid) * grid
    height = points[..., 1].min()
    lines = [((x, height, low[1]), (x, height, high[1])) for x in np.arange(low[0], high[0] + grid / 2, grid)]
    lines += [((low[0], height, z), (high[0], height, z)) for z in np.arange(low[1], high[1] + grid / 2, grid)]
    return np.array(lines)
