"""Draws one picture of the generated shapes set: outlines, textured backgrounds, occlusion, light and noise.

Coordinates are continuous pixels, x to the right and y down, with (0, 0) at the outer corner of the first pixel,
as in COCO. Every random number comes from the generator handed in, so a picture is a function of its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES: tuple[str, ...] = ("circle", "square", "triangle", "star", "ring", "cross")

#: Least part of an object's pixels that stays visible under the objects in front of it.
MIN_VISIBLE = 0.7
#: Least part of an object's bounding square that lies inside the picture.
MIN_INSIDE = 0.7
#: Radii as fractions of the picture's side, drawn log-uniformly.
RADIUS_RANGE = (0.10, 0.36)

_SUPERSAMPLE = 4
_ARC_POINTS = 64
_HOLE = 0.52  # inner radius of a ring

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """One drawn object.

    Attributes:
        label: Index into ``CLASSES``.
        rings: Closed outlines, float64 arrays of shape (points, 2) in pixels: the outer one and, for a ring, the hole.
    """

    label: int
    rings: tuple[Array, ...]

    def polygon(self, size: int) -> Array:
        """Return the whole shape (hidden parts too) clipped to the picture, float64 of shape (points, 2).

        COCO polygons have no holes: a hole is joined to the outer outline by a cut of zero width.
        """
        outline = self.rings[0]
        for hole in self.rings[1:]:
            outline = np.concatenate([outline, outline[:1], hole[::-1][-1:], hole[::-1]])
        return clip_polygon(outline, float(size))

    def bbox(self, size: int) -> tuple[float, float, float, float]:
        """Return (x, y, width, height) in pixels of the whole shape clipped to the picture; zeros if outside."""
        inside = clip_polygon(self.rings[0], float(size))
        if len(inside) == 0:
            return 0.0, 0.0, 0.0, 0.0
        low, high = inside.min(axis=0), inside.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])

    def alpha(self, size: int) -> Array:
        """Return how much of each pixel the shape covers, float32 in [0, 1] of shape (size, size)."""
        scale = _SUPERSAMPLE
        canvas = Image.new("L", (size * scale, size * scale), 0)
        draw = ImageDraw.Draw(canvas)
        for ring, ink in zip(self.rings, (255, 0), strict=False):
            # Pillow's coordinates name pixel centres, hence the half pixel.
            draw.polygon([(float(x), float(y)) for x, y in ring * scale - 0.5], fill=ink)
        return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0


def outline(name: str) -> tuple[Array, ...]:
    """Return the closed outlines of a class around the origin, within about the unit circle, shape (points, 2)."""
    if name in ("circle", "ring"):
        angle = np.arange(_ARC_POINTS) * (2 * math.pi / _ARC_POINTS)
        disc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return (disc,) if name == "circle" else (disc, disc * _HOLE)
    if name == "square":
        half = 0.85
        return (np.array([[-half, -half], [half, -half], [half, half], [-half, half]]),)
    if name == "cross":
        w = 0.3
        corners = [
            (-w, -1),
            (w, -1),
            (w, -w),
            (1, -w),
            (1, w),
            (w, w),
            (w, 1),
            (-w, 1),
            (-w, w),
            (-1, w),
            (-1, -w),
        ]
        return (np.array([*corners, (-w, -w)], dtype=np.float64),)
    points, inner = (3, None) if name == "triangle" else (5, 0.42)
    angle = np.arange(points if inner is None else 2 * points) * (
        2 * math.pi / points / (1 if inner is None else 2)
    )
    radius = np.ones_like(angle) * 1.05
    if inner is not None:
        radius[1::2] *= inner
    return (np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1),)


def clip_polygon(points: Array, size: float) -> Array:
    """Clip a polygon to the square [0, size]^2 (Sutherland-Hodgman); shapes (n, 2) -> (m, 2), m may be 0."""
    for axis, sign, limit in ((0, 1.0, 0.0), (0, -1.0, -size), (1, 1.0, 0.0), (1, -1.0, -size)):
        depth = sign * points[:, axis] - limit
        if bool((depth >= 0).all()):
            continue
        kept: list[Array] = []
        for i in range(len(points)):
            j = (i + 1) % len(points)
            if depth[i] >= 0:
                kept.append(points[i])
            if (depth[i] > 0 > depth[j]) or (depth[i] < 0 < depth[j]):
                kept.append(points[i] + (points[j] - points[i]) * (depth[i] / (depth[i] - depth[j])))
        points = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return points


def polygon_area(points: Array) -> float:
    """Return the area in square pixels of a closed polygon of shape (n, 2) (shoelace formula)."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def draw_picture(rng: np.random.Generator, size: int) -> tuple[Image.Image, list[Shape]]:
    """Draw one picture.

    Args:
        rng: Source of every random choice.
        size: Side of the square picture in pixels.

    Returns:
        The RGB picture and its objects, back to front. Every object in the picture is in the list, is at least
        ``MIN_VISIBLE`` visible and has at least ``MIN_INSIDE`` of its bounding square inside the picture.
    """
    pixels = _background(rng, size)
    shapes: list[Shape] = []
    visible: list[Array] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, 6))):
        placed = _place(rng, size, visible, areas)
        if placed is None:
            continue
        shape, alpha = placed
        _paint(rng, pixels, shape, alpha)
        cover = alpha >= 0.5
        visible = [mask & ~cover for mask in visible] + [cover]
        areas.append(int(cover.sum()))
        shapes.append(shape)
    return _develop(rng, pixels), shapes


def _place(
    rng: np.random.Generator, size: int, visible: list[Array], areas: list[int]
) -> tuple[Shape, Array] | None:
    """Find a place for one more object in front that leaves the earlier ones visible enough, or None."""
    label = int(rng.integers(len(CLASSES)))
    low, high = np.log(RADIUS_RANGE)
    radius = float(np.exp(rng.uniform(low, high))) * size
    angle = rng.uniform(-0.6, 0.6)
    squash = math.exp(rng.uniform(-0.15, 0.15))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    body = turn @ np.diag([radius * squash, radius / squash])
    unit = outline(CLASSES[label])
    for _ in range(12):
        centre = rng.uniform(0.3 * radius, size - 0.3 * radius, size=2)
        shape = Shape(label, tuple(ring @ body.T + centre for ring in unit))
        spread = np.ptp(shape.rings[0], axis=0)
        _, _, width, height = shape.bbox(size)
        if width * height < MIN_INSIDE * spread[0] * spread[1]:
            continue
        alpha = shape.alpha(size)
        cover = alpha >= 0.5
        left = [int((mask & ~cover).sum()) for mask in visible]
        if all(rest >= MIN_VISIBLE * area for rest, area in zip(left, areas, strict=True)):
            return shape, alpha
    return None


def _paint(rng: np.random.Generator, pixels: Array, shape: Shape, alpha: Array) -> None:
    """Fill a shape, in place, in a colour that stands off from what lies behind, shaded, sometimes with a rim."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    cover = alpha[window]
    behind = pixels[window][cover > 0].mean(axis=0)
    candidates = rng.uniform(10, 245, size=(8, 3)).astype(np.float32)
    distance = np.linalg.norm(candidates - behind, axis=1)
    good = np.flatnonzero(distance >= 110)
    colour = candidates[good[0]] if len(good) else candidates[int(distance.argmax())]
    shade = 1 + _slope(rng, cover.shape, 0.35)
    grain = 1 + np.float32(rng.uniform(0, 0.12)) * _smooth(rng, cover.shape, int(rng.integers(3, 12)))
    fill = colour * (shade * grain)[..., None]
    if rng.random() < 0.3:
        rim = 0.8 * _rim(shape, alpha.shape[0], float(rng.uniform(1.0, 2.5)))[window][..., None]
        fill = fill + (rng.uniform(0, 255, size=3).astype(np.float32) - fill) * rim
    pixels[window] += (fill - pixels[window]) * cover[..., None]


def _rim(shape: Shape, size: int, width: float) -> Array:
    """Return the coverage of a line of ``width`` pixels along the outlines, float32 in [0, 1]."""
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale), 0)
    draw = ImageDraw.Draw(canvas)
    for ring in shape.rings:
        points = [(float(x), float(y)) for x, y in ring * scale - 0.5]
        draw.line([*points, points[0]], fill=255, width=max(1, round(2 * width * scale)))
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0


def _background(rng: np.random.Generator, size: int) -> Array:
    """Return a textured background, float32 of shape (size, size, 3), about 0 to 255."""
    frame = (size, size)
    first, second = rng.uniform(20, 235, size=(2, 3)).astype(np.float32)
    blend = 0.5 + 0.5 * _smooth(rng, frame, int(rng.integers(2, 6)))
    pixels = first + (second - first) * np.clip(blend, 0, 1)[..., None]
    kind = rng.integers(4)
    if kind == 1:  # stripes
        pixels = (
            pixels
            + np.float32(rng.uniform(5, 18))
            * np.sign(np.sin(_slope(rng, frame, rng.uniform(6, 40))))[..., None]
        )
    elif kind == 2:  # cloth
        weave = np.sin(_slope(rng, frame, rng.uniform(20, 60))) * np.sin(
            _slope(rng, frame, rng.uniform(20, 60))
        )
        pixels = pixels + np.float32(rng.uniform(6, 20)) * weave[..., None]
    elif kind == 3:  # gravel
        pixels = (
            pixels
            + np.float32(rng.uniform(5, 25))
            * _smooth(rng, frame, int(rng.integers(size // 8, size // 3)))[..., None]
        )
    canvas = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 5))):  # wires: clutter that is no object
        ends = rng.uniform(-0.1 * size, 1.1 * size, size=4)
        ink = tuple(int(v) for v in rng.integers(0, 256, size=3))
        draw.line([float(v) for v in ends], fill=ink, width=int(rng.integers(1, 4)))
    return np.asarray(canvas, dtype=np.float32)


def _develop(rng: np.random.Generator, pixels: Array) -> Image.Image:
    """Apply uneven light, contrast, blur and sensor noise, and round to 8 bits."""
    frame = pixels.shape[:2]
    pixels = pixels * ((1 + _slope(rng, frame, 0.3)) * np.float32(rng.uniform(0.7, 1.15)))[..., None]
    middle = pixels.mean()
    pixels = middle + (pixels - middle) * np.float32(rng.uniform(0.75, 1.1))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.35:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.1))))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 8))
    return Image.fromarray(np.clip(np.asarray(picture, dtype=np.float32) + noise, 0, 255).astype(np.uint8))


def _slope(rng: np.random.Generator, shape: tuple[int, ...], height: float) -> Array:
    """Return a plane, float32 of the given (rows, columns), that is zero at the centre, in a random direction.

    It runs from -height to height along the direction when that is an axis of the picture.
    """
    angle = rng.uniform(0, 2 * math.pi)
    down, across = (np.linspace(-height, height, n, dtype=np.float32) for n in shape)
    plane = across[None, :] * np.float32(math.cos(angle)) + down[:, None] * np.float32(math.sin(angle))
    return np.asarray(plane, dtype=np.float32)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Array:
    """Return smooth noise, float32 of the given (rows, columns), about -1 to 1, with ``cells`` bumps along a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)
