"""Paints the ground: pavement, verges, lines and shadows, by the place on the road that each pixel shows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from slr_det.data.lane_world.road import IMAGE_SHAPE, Array
from slr_det.data.lane_world.scene import Mark, Scene
from slr_det.data.lane_world.textures import Field, clouds, crop, grain

Pixels = npt.NDArray[np.float32]

_FARTHEST = 400.0  # the ground ends here, metres
_STEP = 0.02  # of the table of colours across the road, metres
_REACH = 60.0  # of that table to either side
_COARSE = 4  # pixels between the samples of shadows and blotches
_TEXEL = 0.05  # metres


def paint_ground(scene: Scene, rng: np.random.Generator) -> tuple[int, Pixels]:
    """Return the topmost row that shows ground, and the colours of the rows from it on, (R, 1280, 3), 0 to 255."""
    z = scene.road.depth(np.arange(IMAGE_SHAPE[0]) + 0.5)
    # A crest hides the ground behind it and a rise goes on to _FARTHEST: either way the rows below see it all.
    top = int(np.argmax(np.nan_to_num(z, nan=np.inf) <= _FARTHEST))
    z = z[top:]
    s = _across(scene, np.arange(IMAGE_SHAPE[1]) + 0.5, z)
    index = ((s + np.float32(_REACH)) * np.float32(1 / _STEP)).astype(np.int32)
    table = _colours(scene)
    pixels = np.take(table, np.clip(index, 0, len(table) - 1), axis=0)
    near, far = _edges(z)
    if scene.joints:
        joint = 0.55 * stripes(near, far, 0.025, scene.joints, float(rng.uniform(0, scene.joints)))
        paved = (s > scene.left.edge) & (s < scene.right.edge)
        pixels *= (1 - joint.astype(np.float32)[:, None] * paved)[..., None]
    for mark in scene.marks:
        _paint(pixels, scene, mark, z, near, far, rng)
    shade = _shade(scene, z, rng)
    shade += crop(grain(), rng, *shade.shape) * np.float32(0.022)
    pixels *= shade[..., None]
    return top, pixels


def stripes(start: Array, stop: Array, length: float, period: float, phase: float) -> Array:
    """Return the share of each stretch from ``start`` to ``stop`` that stripes of a length and period cover."""

    def covered(z: Array) -> Array:
        turns = np.floor((z - phase) / period)
        return turns * length + np.minimum(z - phase - turns * period, length)

    return np.asarray((covered(stop) - covered(start)) / np.maximum(stop - start, 1e-9))


def _across(scene: Scene, u: npt.NDArray[np.floating], z: Array) -> Field:
    """How far to the right of the own lane's middle each pixel lies, metres, (rows, columns)."""
    size = z / scene.road.camera.focal
    x = (u - scene.road.camera.centre).astype(np.float32)[None] * size.astype(np.float32)[:, None]
    x -= scene.road.middle(z).astype(np.float32)[:, None]
    return x


def _edges(z: Array) -> tuple[Array, Array]:
    """The distances between which each row lies: half-way to those of its neighbours."""
    far = np.concatenate([[z[0]], (z[:-1] + z[1:]) / 2])
    near = np.concatenate([far[1:], [z[-1]]])
    return near, far


def _colours(scene: Scene) -> Field:
    """Colours across the road, for every _STEP from -_REACH on, (N, 3)."""
    s = np.arange(-_REACH, _REACH, _STEP)
    pavement = np.ones_like(s)
    lines = scene.road.lines
    for a, b in pairwise(lines):
        for wheel in (-0.85, 0.85):
            pavement -= scene.tracks * np.exp(-(((s - (a + b) / 2 - wheel) / 0.32) ** 2))
    beside = (s < lines[0]) | (s > lines[-1])
    pavement[beside] *= 0.92
    colours = pavement[:, None] * np.array(scene.asphalt)
    for side, beyond in ((scene.left, s < scene.left.edge), (scene.right, s > scene.right.edge)):
        colours[beyond] = side.verge
        fade = np.clip((np.abs(s[beyond]) - abs(side.edge)) / 6, 0, 1)
        colours[beyond] *= (0.86 + 0.14 * fade)[:, None]
    return np.asarray(colours, np.float32)


def _paint(
    pixels: Pixels, scene: Scene, mark: Mark, z: Array, near: Array, far: Array, rng: np.random.Generator
) -> None:
    """Blend a line into the pixels around its middle, by the share of each pixel that it covers."""
    middle = scene.road.column(mark.s + mark.drift * z, z)
    half = mark.width / 2 * scene.road.camera.focal / z
    reach = int(np.ceil(half.max())) + 1
    columns = np.floor(middle).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    aside = columns + 0.5 - middle[:, None]
    cover = np.clip(half[:, None] + 0.5 - np.abs(aside), 0, np.minimum(1, 2 * half)[:, None])
    amount = np.full_like(z, mark.opacity)
    if mark.dash:
        amount *= stripes(near, far, mark.dash, mark.period, mark.phase)
    cover *= amount[:, None]
    shown = np.nonzero((cover > 0) & (columns >= 0) & (columns < IMAGE_SHAPE[1]))
    rows, at, strength = shown[0], columns[shown], cover[shown]
    if mark.wear:
        field, start = clouds(6), rng.integers(1024, size=2)
        along = (z[rows] / _TEXEL + start[0]).astype(np.int64) % 1024
        metres = aside[shown] * z[rows] / scene.road.camera.focal
        beside = (metres / (_TEXEL / 2) + start[1]).astype(np.int64) % 1024
        strength = strength * np.clip(1.15 - mark.wear * (0.45 + 0.45 * field[along, beside]), 0, 1)
    under = pixels[rows, at]
    colour = np.array(mark.colour, np.float32)
    pixels[rows, at] = under + strength[:, None].astype(np.float32) * (colour - under)


def _shade(scene: Scene, z: Array, rng: np.random.Generator) -> Field:
    """Factor of brightness of every pixel: shadows, and blotches of the pavement, sampled at every _COARSE pixels."""
    height, width = len(z), IMAGE_SHAPE[1]
    rows = np.minimum(np.arange(0, height, _COARSE) + _COARSE // 2, height - 1)
    z = z[rows]
    s = _across(scene, np.arange(0, width, _COARSE) + _COARSE / 2, z)
    light = 1 + 0.035 * _sample(clouds(4), z, s, 1 / 20, rng) + 0.03 * _sample(clouds(5), z, s, 1 / 80, rng)
    light *= 1 - scene.shade.strength * _shadow(scene, z, s, rng)
    image = Image.fromarray(light.astype(np.float32))
    size = (width, len(rows) * _COARSE)
    return np.array(image.resize(size, Image.Resampling.BILINEAR), np.float32)[:height]


def _sample(
    field: Field, z: Array, s: Field, texel: float, rng: np.random.Generator, stretch: float = 1.0
) -> Field:
    """The field laid over the road, bilinear: ``texel`` metres to a sample, ``stretch`` times as many across."""
    start = rng.integers(1024, size=2)
    row = (z / texel + start[0])[:, None]
    column = s * np.float32(1 / (texel * stretch)) + np.float32(start[1])
    top, left = np.floor(row), np.floor(column)
    down, right = (row - top).astype(np.float32), column - left
    i, j = top.astype(np.int64), left.astype(np.int64)
    rows, columns = (i % 1024, (i + 1) % 1024), (j % 1024, (j + 1) % 1024)
    upper, lower = (
        field[r, columns[0]] + right * (field[r, columns[1]] - field[r, columns[0]]) for r in rows
    )
    return np.asarray(upper + down * (lower - upper), np.float32)


def _shadow(scene: Scene, z: Array, s: Field, rng: np.random.Generator) -> Field:
    """Share of each place that lies in the shadow of trees or bridges."""
    shade, shadow = scene.shade, np.zeros_like(s)
    if shade.trees:
        # Trees beside the road: denser towards their side of it.
        edge = scene.right.edge if shade.side > 0 else -scene.left.edge
        density = (np.float32(shade.side) * s - np.float32(edge * (1 - shade.trees))) * np.float32(0.25)
        leaves = _sample(clouds(5, 4.0), z, s, 0.06, rng, stretch=2.0)
        np.clip((density + leaves) * np.float32(2.5) + np.float32(0.5), 0, 1, out=shadow)
    for start, length, skew in shade.bridges:
        ahead = z.astype(np.float32)[:, None] + np.float32(skew) * s - np.float32(start)
        under = np.clip(np.minimum(ahead, np.float32(length) - ahead) * np.float32(2), 0, 1)
        np.maximum(shadow, under, out=shadow)
    return shadow
