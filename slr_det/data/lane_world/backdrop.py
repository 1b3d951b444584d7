"""Paints what lies behind the road: sky, hills and trees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from slr_det.data.lane_world.road import FAR, IMAGE_SHAPE
from slr_det.data.lane_world.scene import Scene
from slr_det.data.lane_world.textures import clouds, crop, profile

Pixels = npt.NDArray[np.float32]

#: Colours of the sky overhead, at the horizon, and of its clouds.
_SKIES = {
    "overcast": ((128, 136, 150), (206, 210, 214), (92, 98, 110)),
    "clear": ((74, 122, 188), (190, 214, 236), (248, 248, 248)),
    "low sun": ((150, 172, 204), (250, 232, 200), (255, 244, 222)),
    "dusk": ((88, 100, 136), (226, 176, 140), (96, 92, 116)),
}


def paint_backdrop(scene: Scene, height: int, rng: np.random.Generator) -> Pixels:
    """Return the rows above the ground, (height, 1280, 3), 0 to 255."""
    width = IMAGE_SHAPE[1]
    if height == 0:
        return np.zeros((0, width, 3), np.float32)
    above, below, cloud = (np.array(colour, np.float32) for colour in _SKIES[scene.light.sky])
    fade = (np.linspace(0, 1, height, dtype=np.float32) ** 1.3)[:, None, None]
    pixels = np.broadcast_to(above + (below - above) * fade, (height, width, 3)).copy()
    amount = 0.75 if scene.light.sky == "overcast" else float(rng.uniform(0.0, 0.8))
    # A quarter of the rows and an eighth of the columns: clouds are wide and smooth.
    field = Image.fromarray(crop(clouds(5), rng, height // 4 + 2, width // 8 + 2))
    cover = np.array(field.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    cover = np.clip(cover * 0.6 + 0.1, 0, 1)[..., None] * np.float32(amount) * (1 - 0.6 * fade)
    pixels += cover * (cloud - pixels)

    haze = below
    vanishing = float(scene.road.column(0.0, np.array(FAR)))
    apart = np.abs(np.arange(width) - vanishing) / width
    if rng.random() < 0.6:
        outline = float(rng.uniform(18, 50)) * (0.8 + 0.35 * profile(clouds(3), rng, 2.5, width))
        hill = np.array([86.0, 96.0, 96.0]) * rng.uniform(0.7, 1.2)
        _silhouette(pixels, outline, hill + (haze - hill) * rng.uniform(0.3, 0.6), 0.05, rng)
    far = float(rng.uniform(5, 16)) * (1 + 0.4 * profile(clouds(5), rng, 1.5, width))
    green = np.array([66.0, 78.0, 52.0]) * rng.uniform(0.7, 1.2)
    _silhouette(pixels, far + 10 * apart, green + (haze - green) * 0.25, 0.12, rng)
    if rng.random() < 0.75:
        # Near trees: the farther from where the road vanishes, the taller, with gaps between them.
        groups = profile(clouds(3), rng, 1.6, width) + float(rng.uniform(-0.4, 1.2))
        leaves = 1 + 0.14 * profile(clouds(6, 12.0), rng, 1.1, width)
        # The root makes round crowns of the noise's hills.
        crowns = np.sqrt(np.clip(groups, 0, 2)) * leaves
        near = crowns * (10 + float(rng.uniform(120, 330)) * np.maximum(apart - 0.05, 0))
        _silhouette(pixels, near, green * 0.62, 0.3, rng)
    return pixels


def _silhouette(
    pixels: Pixels,
    outline: npt.NDArray[np.float64],
    colour: npt.NDArray[np.float64],
    contrast: float,
    rng: np.random.Generator,
) -> None:
    """Fill the rows up to ``outline`` (1280,) pixels above the lowest one with a mottled colour."""
    height, width = pixels.shape[:2]
    tallest = min(height, int(np.ceil(outline.max())) + 1)
    if tallest <= 0:
        return
    part = pixels[height - tallest :]
    rows = np.arange(tallest, 0, -1)[:, None] - 0.5
    cover = np.clip(outline[None] - rows + 0.5, 0, 1).astype(np.float32)
    mottle = 1 + np.float32(contrast) * crop(clouds(7, 24.0), rng, tallest, width)
    part += cover[..., None] * (np.array(colour, np.float32) * mottle[..., None] - part)
