"""Draws what is in a frame at random: how the road runs, its lines, the traffic, the weather."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from slr_det.data.lane_world.road import Camera, Road
from slr_det.data.lane_world.scene import WHITE, YELLOW, Colour, Light, Mark, Scene, Shade, Side, Vehicle

#: Chances of one to four lanes, which two to five lines bound.
_LANES = (0.1, 0.2, 0.4, 0.3)
#: Length and period of dashes in metres; the first is the American motorway's.
_DASHES = ((3.05, 12.2), (3.0, 9.0), (4.0, 12.0), (6.0, 18.0), (3.0, 6.0))
_CROSSINGS = 0.05  # share of frames in which the camera's car changes lanes
_CARS: tuple[Colour, ...] = (
    (206, 208, 210),
    (232, 232, 228),
    (44, 46, 50),
    (24, 25, 28),
    (104, 108, 114),
    (140, 32, 36),
    (40, 64, 112),
    (112, 104, 88),
)
_VERGES: tuple[Colour, ...] = ((104, 116, 72), (146, 130, 96), (118, 112, 100), (86, 98, 62))
#: Length, width and height in metres, least and greatest.
_SIZES = {
    "car": ((4.0, 1.72, 1.42), (4.9, 1.9, 1.58)),
    "van": ((4.6, 1.85, 1.7), (5.6, 2.05, 2.1)),
    "truck": ((8.0, 2.4, 3.2), (14.0, 2.55, 4.0)),
}
_FARTHEST_CAR = 150.0


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: one-way roads of one to four lanes, and two-way ones with a yellow line in their middle."""
    lanes = int(rng.choice(len(_LANES), p=_LANES)) + 1
    width = float(rng.uniform(3.3, 3.8))
    # In a lane in the middle as often as not, so that most frames show four lines.
    own = int(rng.integers(lanes))
    if rng.random() < 0.5:
        own = int(rng.integers((lanes - 1) // 2, lanes // 2 + 1))
    # Lanes to the left of this one are oncoming.
    first = int(rng.integers(1, own + 1)) if own > 0 and lanes < 4 and rng.random() < 0.4 else 0
    lines = tuple((index - own - 0.5) * width for index in range(lanes + 1))
    road = _road(rng, lines, width)
    left, right = (_side(rng, lines, sign, first > 0) for sign in (-1, 1))
    light = _light(rng)
    tone = float(rng.uniform(84, 142))
    concrete = bool(rng.random() < 0.35)
    warmth = float(rng.uniform(0, 10)) if concrete else float(rng.uniform(-4, 3))
    return Scene(
        road=road,
        asphalt=(tone + warmth, tone + warmth / 2, tone - warmth / 2),
        joints=float(rng.uniform(4, 6)) if concrete else 0.0,
        tracks=float(rng.uniform(0.02, 0.16)),
        left=left,
        right=right,
        marks=_marks(rng, lines, first, concrete),
        vehicles=_traffic(rng, lines, own, first, abs(road.offset) > width / 3),
        shade=_shade(rng, light.sky),
        light=light,
    )


def _road(rng: np.random.Generator, lines: tuple[float, ...], width: float) -> Road:
    camera = Camera(
        focal=float(rng.uniform(950, 1080)),
        height=float(rng.uniform(1.4, 1.65)),
        horizon=float(np.clip(rng.normal(252, 15), 215, 290)),
    )
    offset = float(np.clip(rng.normal(0, 0.22), -0.6, 0.6))
    if rng.random() < _CROSSINGS:
        offset = float(rng.choice([-1.0, 1.0])) * width * float(rng.uniform(0.35, 0.5))
    # Radii of 200 m and more in every other frame, else nearly straight.
    curved = rng.random() < 0.55
    return Road(
        camera=camera,
        offset=offset,
        heading=float(np.clip(rng.normal(0, 0.014), -0.035, 0.035)),
        curvature=float(np.clip(rng.normal(0, 0.0022 if curved else 0.0002), -0.005, 0.005)),
        bend=float(rng.normal(0, 8e-6)),
        rise=float(np.clip(rng.normal(0, 1.2e-4), -3e-4, 3e-4)),
        lines=lines,
    )


def _side(rng: np.random.Generator, lines: tuple[float, ...], sign: int, two_way: bool) -> Side:
    shoulder = float(rng.uniform(0.3, 1.2)) if two_way else float(rng.uniform(0.6, 3.2))
    chances = (0.7, 0.25, 0.05) if two_way or sign > 0 else (0.35, 0.25, 0.4)
    verge = np.array(_VERGES[rng.integers(len(_VERGES))]) * rng.uniform(0.8, 1.1)
    wall = np.array([176.0, 162.0, 134.0]) * rng.uniform(0.75, 1.1) + rng.uniform(-8, 8, 3)
    return Side(
        edge=lines[0 if sign < 0 else -1] + sign * shoulder,
        kind=str(rng.choice(["open", "rail", "wall"], p=chances)),
        verge=_colour(verge),
        wall=_colour(wall),
    )


def _marks(
    rng: np.random.Generator, lines: tuple[float, ...], first: int, concrete: bool
) -> tuple[Mark, ...]:
    """Tar and tyre marks, then the lines."""
    marks = []
    if rng.random() < (0.7 if concrete else 0.3):
        aside = float(rng.uniform(0.15, 0.45)) * float(rng.choice([-1.0, 1.0]))
        dark = (38.0, 38.0, 38.0)
        for s in lines[1:-1]:
            marks.append(Mark(s + aside, float(rng.uniform(0.02, 0.07)), dark, float(rng.uniform(0.3, 0.8))))
    for _ in range(int(rng.poisson(0.6))):
        s, drift = float(rng.uniform(lines[0], lines[-1])), float(rng.normal(0, 0.03))
        length = float(rng.uniform(4, 20))
        opacity = float(rng.uniform(0.15, 0.45))
        phase = float(rng.uniform(4, 40))
        for beside in (0.0, 1.5):
            marks.append(Mark(s + beside, 0.18, (30, 30, 30), opacity, 0.4, length, 1e4, phase, drift))
    width = float(rng.uniform(0.1, 0.17))
    opacity, wear = float(rng.uniform(0.7, 1.0)), float(rng.uniform(0, 1)) ** 1.5
    dash, period = _DASHES[int(rng.choice(len(_DASHES), p=(0.4, 0.2, 0.15, 0.15, 0.1)))]
    edge = YELLOW if first == 0 and rng.random() < 0.6 else WHITE
    for index, s in enumerate(lines):
        here = {"width": width, "opacity": opacity, "wear": min(1.0, wear * float(rng.uniform(0.6, 1.4)))}
        dashes = {"dash": dash, "period": period, "phase": float(rng.uniform(0, period))}
        if index == first > 0:
            if rng.random() < 0.5:
                marks += [Mark(s + aside, colour=YELLOW, **here) for aside in (-width, width)]
            else:
                marks.append(Mark(s, colour=YELLOW, **here, **dashes))
        elif 0 < index < len(lines) - 1:
            solid = rng.random() < 0.08
            marks.append(Mark(s, colour=WHITE, **here, **({} if solid else dashes)))
        else:
            marks.append(Mark(s, colour=edge if index == 0 else WHITE, **here))
    return tuple(marks)


def _traffic(
    rng: np.random.Generator, lines: tuple[float, ...], own: int, first: int, crossing: bool
) -> tuple[Vehicle, ...]:
    density = float(rng.choice([0.0, 0.4, 1.0, 2.0], p=(0.1, 0.35, 0.35, 0.2)))
    vehicles: list[Vehicle] = []
    if density == 0:
        return ()
    for lane, (a, b) in enumerate(pairwise(lines)):
        # Nobody drives where the camera's car is, or where it is going.
        clear = 13.0 if lane == own or crossing else 3.2
        z = clear + float(rng.exponential(28 / density))
        while z < _FARTHEST_CAR:
            vehicle = _vehicle(rng, (a + b) / 2 + float(rng.normal(0, 0.2)), z, oncoming=lane < first)
            vehicles.append(vehicle)
            z += vehicle.length + 5 + float(rng.exponential(30 / density))
    return tuple(sorted(vehicles, key=lambda vehicle: -vehicle.z))


def _vehicle(rng: np.random.Generator, s: float, z: float, *, oncoming: bool) -> Vehicle:
    kind = str(rng.choice(["car", "van", "truck"], p=(0.72, 0.18, 0.1)))
    low, high = np.array(_SIZES[kind])
    length, width, height = low + (high - low) * rng.random(3)
    colour = np.array(_CARS[rng.integers(len(_CARS))]) * rng.uniform(0.85, 1.1)
    return Vehicle(
        kind=kind,
        s=s,
        z=z,
        length=float(length),
        width=float(width),
        height=float(height),
        colour=_colour(colour),
        oncoming=oncoming,
        braking=bool(rng.random() < 0.25),
    )


def _shade(rng: np.random.Generator, sky: str) -> Shade:
    sunny = sky in ("clear", "low sun")
    bridges = []
    if rng.random() < 0.14:
        bridges.append((float(rng.uniform(6, 90)), float(rng.uniform(6, 14)), float(rng.normal(0, 0.3))))
    return Shade(
        strength=float(rng.uniform(0.3, 0.6)) if sunny else float(rng.uniform(0.1, 0.25)),
        trees=float(rng.uniform(0.3, 0.75)) if sunny and rng.random() < 0.55 else 0.0,
        side=float(rng.choice([-1.0, 1.0])),
        bridges=tuple(bridges),
    )


def _light(rng: np.random.Generator) -> Light:
    sky = str(rng.choice(["overcast", "clear", "low sun", "dusk"], p=(0.35, 0.4, 0.17, 0.08)))
    dusk, low = sky == "dusk", sky == "low sun"
    return Light(
        sky=sky,
        exposure=float(rng.uniform(0.45, 0.65)) if dusk else float(rng.uniform(0.75, 1.2)),
        contrast=float(rng.uniform(0.85, 1.1)),
        warmth=math.exp(float(rng.normal(0.05 if low else 0.0, 0.03))),
        glare=float(rng.uniform(0.5, 1.0)) if low else 0.0,
        sun=(float(rng.uniform(150, 1130)), float(rng.uniform(40, 190))),
        noise=float(rng.uniform(1.0, 3.0)),
    )


def _colour(values: npt.NDArray[np.float64]) -> Colour:
    red, green, blue = (float(value) for value in np.clip(values, 0, 255))
    return red, green, blue
