"""Renders a scene as the camera's picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from slr_det.data.lane_world.backdrop import paint_backdrop
from slr_det.data.lane_world.brush import draw_pieces
from slr_det.data.lane_world.ground import paint_ground
from slr_det.data.lane_world.road import IMAGE_SHAPE
from slr_det.data.lane_world.roadside import bridge_pieces, side_pieces
from slr_det.data.lane_world.scene import Light, Scene
from slr_det.data.lane_world.textures import crop, grain
from slr_det.data.lane_world.vehicles import pieces

_COARSE = 16  # pixels between the samples of the glare


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Return the picture of a scene, RGB, 1280 x 720.

    Args:
        scene: To show.
        rng: Says where each texture begins.
    """
    top, ground = paint_ground(scene, rng)
    pixels = np.concatenate([paint_backdrop(scene, top, rng), ground])
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw_pieces(image, scene.road, side_pieces(scene))
    strength = scene.shade.strength
    things = [(v.z, pieces(v, scene.road, strength)) for v in scene.vehicles] + bridge_pieces(scene)
    for _, parts in sorted(things, key=lambda thing: -thing[0]):
        draw_pieces(image, scene.road, parts)
    return expose(image, scene.light, rng)


def expose(image: Image.Image, light: Light, rng: np.random.Generator) -> Image.Image:
    """Return what the camera makes of the light: exposure, contrast, a tint, dark corners, noise and glare.

    Args:
        image: RGB, 1280 x 720.
        light: Of the scene.
        rng: For the noise.
    """
    grey = np.arange(256)[None] * light.contrast + 110 * (1 - light.contrast)
    curves = grey * light.exposure * np.array([[light.warmth], [1.0], [1 / light.warmth]])
    image = image.point(np.clip(curves, 0, 255).round().astype(int).ravel().tolist())
    corners, glare = _lens(light)
    # Noise grows with the light, as that of photons does; one factor for both saves a pass over the picture.
    factor = corners + crop(grain(), rng, *IMAGE_SHAPE) * np.float32(light.noise / 110)
    out = np.multiply(np.asarray(image), factor[..., None], dtype=np.float32)
    if light.glare:
        # Light that is added, and that also washes out what it falls on.
        out += glare[..., None] * (np.array([255.0, 240.0, 214.0], np.float32) - 0.4 * out)
    return Image.fromarray(np.clip(out, 0, 255, out=out).astype(np.uint8))


def _lens(light: Light) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Factor of brightness towards the corners, and glare around the sun and on the road below it, (720, 1280)."""
    height, width = IMAGE_SHAPE
    v, u = (np.arange(0, side, _COARSE) + _COARSE / 2 for side in IMAGE_SHAPE)
    across, down = (u - width / 2) / width, (v[:, None] - height / 2) / width
    corners = 1 - 0.45 * (across**2 + down**2)
    right, below = (u - light.sun[0]) / width, (v[:, None] - light.sun[1]) / width
    away = np.hypot(right, below)
    glare = 0.9 * np.exp(-away / 0.05) + 0.55 * np.exp(-away / 0.3)
    streak = np.exp(-((right / (0.03 + 0.15 * np.abs(below))) ** 2)) * np.clip((below - 0.05) / 0.15, 0, 1)
    full = [
        np.asarray(
            Image.fromarray(field.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        )
        for field in (corners, np.clip(light.glare * (glare + 0.3 * streak), 0, 0.92))
    ]
    return full[0], full[1]
