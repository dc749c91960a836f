"""Images of coloured shapes, and their captions in English.

    rng = np.random.default_rng(0)
    scene = sample_scene(rng, colour="red", shape="circle")
    image, words = draw(scene, rng), caption(scene, rng)

All randomness comes from the caller's generator: equal seeds give equal images.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Outline = list[tuple[float, float]]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "orange": (246, 140, 22),
    "yellow": (246, 222, 42),
    "green": (34, 150, 58),
    "blue": (36, 78, 214),
    "purple": (124, 44, 164),
    "pink": (250, 136, 192),
    "brown": (120, 72, 32),
    "black": (18, 18, 18),
    "white": (248, 248, 248),
}
SIZES = ("small", "medium", "large")
POSITIONS = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the centre", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
GROUNDS = ("plain", "striped", "noisy")
MAX_COUNT = 4

# Pairs that the shipped weights never saw, neither in images nor in captions. Each colour is in one pair.
HELD_OUT: frozenset[tuple[str, str]] = frozenset({
    ("red", "arrow"), ("orange", "ring"), ("yellow", "triangle"), ("green", "heart"), ("blue", "cross"),
    ("purple", "square"), ("pink", "star"), ("brown", "circle"), ("black", "heart"), ("white", "ring"),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of an image.

    Attributes:
        shape: A key of `SHAPES`.
        colour: A key of `COLOURS`.
        size: One of `SIZES`; several shapes in one image are never large.
        count: The number of equal shapes, 1 to `MAX_COUNT`.
        position: One of `POSITIONS` for a single shape; None for several, which are placed at random.
        ground: One of `GROUNDS`.
    """

    shape: str
    colour: str
    size: str = "medium"
    count: int = 1
    position: str | None = "in the centre"
    ground: str = "plain"

    def __post_init__(self) -> None:
        """Refuse scenes that cannot be drawn."""
        allowed: dict[str, Collection[object]] = {
            "shape": SHAPES,
            "colour": COLOURS,
            "size": SIZES,
            "ground": GROUNDS,
            "position": (*POSITIONS, None),
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field} {getattr(self, field)!r} is not one of {', '.join(map(str, values))}")
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count {self.count!r} is not in 1 to {MAX_COUNT}")
        if (self.count == 1) != (self.position is not None):
            raise ValueError(
                f"count {self.count!r} with position {self.position!r}: only a single shape has a position"
            )
        if self.size == "large" and (self.count > 1 or self.position != "in the centre"):
            raise ValueError(f"a large shape must be alone in the centre, got {self.count!r} of them {self.position!r}")


def _polar(radii: Sequence[float], start: float = -90.0) -> Outline:
    """Return corners at equal angles around the centre, the first at `start` degrees (-90 is up)."""
    angles = [math.radians(start + 360.0 * i / len(radii)) for i in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> Outline:
    turns = [2 * math.pi * i / 48 for i in range(48)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]


def _ring() -> Outline:
    outer = _polar([1.0] * 48)
    inner = _polar([0.55] * 48)
    # One polygon with a seam: once around outside, once back inside.
    return [*outer, outer[0], inner[0], *reversed(inner)]


def _cross(arm: float = 0.3) -> Outline:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    corners: Outline = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


# Outlines in units of the shape's radius; y points down, as in images.
SHAPES: dict[str, Outline] = {
    "circle": _polar([1.0] * 48),
    "square": _polar([1.12] * 4, start=-45.0),
    "triangle": _polar([1.1] * 3),
    "star": _polar([1.1, 0.45] * 5),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _ring(),
    "arrow": [(-1.0, -0.28), (0.1, -0.28), (0.1, -0.8), (1.0, 0.0), (0.1, 0.8), (0.1, 0.28), (-1.0, 0.28)],
}
CLASSES: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)


def sample_scene(
    rng: np.random.Generator,
    *,
    colour: str | None = None,
    shape: str | None = None,
    count: int | None = None,
    avoid: frozenset[tuple[str, str]] = frozenset(),
) -> Scene:
    """Return a random scene; a given colour or shape is fixed.

    A count that is not given is 1 with a probability of 0.6, or 2 to 4. `avoid` has pairs of colour and shape to leave
    out; it is ignored if both are fixed.
    """
    pairs = [
        pair
        for pair in CLASSES
        if colour in (None, pair[0]) and shape in (None, pair[1]) and (pair not in avoid or (colour and shape))
    ]
    if not pairs:
        raise ValueError(f"no pair is left for colour {colour!r} and shape {shape!r}")
    chosen_colour, chosen_shape = pairs[rng.integers(len(pairs))]
    if count is None:
        count = 1 if rng.random() < 0.6 else int(rng.integers(2, MAX_COUNT + 1))
    size = SIZES[rng.integers(len(SIZES) if count == 1 else 2)]
    position = None
    if count == 1:
        position = "in the centre" if size == "large" else POSITIONS[rng.integers(len(POSITIONS))]
    return Scene(chosen_shape, chosen_colour, size, count, position, GROUNDS[rng.integers(len(GROUNDS))])


def draw(scene: Scene, rng: np.random.Generator, side: int = 224) -> Image.Image:
    """Draw the scene as a square RGB image, `side` pixels wide."""
    colour = np.clip(np.array(COLOURS[scene.colour]) + rng.integers(-14, 15, 3), 0, 255)
    image = _ground(scene.ground, colour, rng, side)
    # Drawn at twice the size and reduced, for smooth edges.
    large = Image.new("L", (2 * side, 2 * side))
    pen = ImageDraw.Draw(large)
    for x, y, radius in _places(scene, rng):
        turn = math.radians(rng.uniform(-10, 10))
        cos, sin = math.cos(turn), math.sin(turn)
        pen.polygon(
            [
                (2 * side * (x + radius * (u * cos - v * sin)), 2 * side * (y + radius * (u * sin + v * cos)))
                for u, v in SHAPES[scene.shape]
            ],
            fill=255,
        )
    image.paste(tuple(int(c) for c in colour), mask=large.reduce(2))
    return image


def clutter(rng: np.random.Generator, side: int = 224) -> Image.Image:
    """Draw a square RGB image of many colours without shapes, like a photograph from a distance."""
    layers = np.zeros((side, side, 3))
    for cells in (2, 5, 12, 30):
        # Brightness varies more than colour, and both vary less in finer layers.
        fade = rng.uniform(0.3, 1.0) / math.sqrt(cells)
        layers += fade * (_clouds(rng, cells, side, channels=1) + 0.6 * _clouds(rng, cells, side, channels=3))
    pixels = layers * rng.uniform(60, 130) + rng.uniform(60, 190) + rng.uniform(-30, 30, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return the centre (x, y) and radius of every shape, as fractions of the image's side."""
    jitter = 0.03
    steps: tuple[float, ...] = (0.25, 0.5, 0.75)
    if scene.position is not None:
        low, high = {"small": (0.12, 0.15), "medium": (0.18, 0.22), "large": (0.28, 0.38)}[scene.size]
        row, column = divmod(POSITIONS.index(scene.position), 3)
        cells = [(column, row)]
    else:
        low, high, steps = (0.115, 0.135, (0.18, 0.5, 0.82)) if scene.size == "small" else (0.17, 0.2, (0.26, 0.74))
        grid = [(column, row) for row in range(len(steps)) for column in range(len(steps))]
        cells = [grid[i] for i in rng.permutation(len(grid))[: scene.count]]
    radius = rng.uniform(low, high)
    shifts = rng.uniform(-jitter, jitter, (len(cells), 2))
    return [
        (steps[column] + dx, steps[row] + dy, radius) for (column, row), (dx, dy) in zip(cells, shifts, strict=True)
    ]


def _ground(kind: str, shape_colour: np.ndarray, rng: np.random.Generator, side: int) -> Image.Image:
    """Return a background whose colours all differ from that of the shape."""
    base = _ground_colour(shape_colour, rng)
    if kind == "plain":
        return Image.new("RGB", (side, side), tuple(int(c) for c in base))
    if kind == "striped":
        other = _ground_colour(shape_colour, rng, apart_from=base)
        angle, period = rng.uniform(0, math.pi), side * rng.uniform(0.09, 0.25)
        y, x = np.mgrid[:side, :side]
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + rng.uniform(0, 6))
        pixels = np.where(wave[..., None] > 0, base, other)
    elif rng.random() < 0.5:
        cells = int(rng.integers(24, 97))
        grains = rng.normal(0, rng.uniform(14, 36), (cells, cells, int(rng.choice((1, 3)))))
        picked = np.arange(side) * cells // side
        pixels = base + grains[picked][:, picked]
    else:
        clouds = _clouds(rng, int(rng.integers(6, 14)), side, channels=1) + _clouds(rng, 40, side, channels=1)
        pixels = base + rng.uniform(14, 28) * clouds
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ground_colour(
    shape_colour: np.ndarray, rng: np.random.Generator, apart_from: np.ndarray | None = None
) -> np.ndarray:
    """Return a mostly pale or dark colour: the first of a few far enough from the shape's, else the farthest."""
    greys = rng.uniform(0, 255, (12, 1))
    candidates = greys + (rng.uniform(0, 255, (12, 3)) - greys) * rng.uniform(0, 0.7, (12, 1))
    distances = np.linalg.norm(candidates - shape_colour, axis=1)
    if apart_from is not None:
        # Stripes must be visible, but may differ less than shape and background.
        distances = np.minimum(distances, 2 * np.linalg.norm(candidates - apart_from, axis=1))
    good = distances > 110
    return candidates[int(np.argmax(good if good.any() else distances))]


def _clouds(rng: np.random.Generator, cells: int, side: int, channels: int) -> np.ndarray:
    """Return smooth noise of about unit deviation, (side, side, channels) float, with `cells` bumps across."""
    bumps = rng.normal(0, 1, (channels, cells, cells)).astype(np.float32)
    smooth = [Image.fromarray(b).resize((side, side), Image.Resampling.BICUBIC) for b in bumps]
    return np.stack([np.asarray(s) for s in smooth], axis=-1)


_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "a drawing of ", "an image of ")
_SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
_NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
_POSITION_WORDS: dict[str, tuple[str, ...]] = {
    position: (
        (position, position.replace("centre", "middle"))
        if position == "in the centre"
        else (position, "in the " + position.split("the ")[1] + " corner")
        if " " in position.split("the ")[1]
        else (position,)
    )
    for position in POSITIONS
}


def class_caption(colour: str, shape: str) -> str:
    """Return the shortest caption of a class: "a red circle"."""
    return _article(f"{colour} {shape}")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a random English caption of the scene, with more or less detail."""
    return describe(scene, rng)[0]


def describe(scene: Scene, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """Return a random caption, and the fields of the scene that it mentions.

    The caption is true for every image whose scene agrees in those fields.
    """
    draws = rng.random(6)
    mentioned = {"shape", "colour"} if draws[0] < 0.8 else {"shape"} if draws[0] < 0.9 else {"colour"}
    if mentioned == {"colour"} and draws[1] < 0.5:
        return _pick(_OPENINGS, rng) + f"something {scene.colour}", frozenset(mentioned)
    mentioned.add("count")
    if scene.size != "medium" and draws[2] < 0.35:
        mentioned.add("size")
    if scene.position is not None and draws[3] < 0.35:
        mentioned.add("position")
    if draws[4] < 0.35:
        mentioned.add("ground")
    return _pick(_OPENINGS, rng) + _phrase(scene, mentioned, rng), frozenset(mentioned)


def _phrase(scene: Scene, mentioned: set[str], rng: np.random.Generator) -> str:
    noun = scene.shape if "shape" in mentioned else "shape"
    if scene.count > 1:
        noun += "es" if noun.endswith("s") else "s"
    words = [_pick(_SIZE_WORDS[scene.size], rng)] if "size" in mentioned else []
    words += [scene.colour] if "colour" in mentioned else []
    phrase = " ".join([*words, noun])
    phrase = _article(phrase) if scene.count == 1 else f"{_NUMBER_WORDS[scene.count]} {phrase}"
    if "position" in mentioned:
        phrase += " " + _pick(_POSITION_WORDS[scene.position or ""], rng)
    if "ground" in mentioned:
        phrase += f" on a {scene.ground} " + _pick(("ground", "background"), rng)
    return phrase


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
