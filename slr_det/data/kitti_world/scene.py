"""Lays out one frame of the generated world: a street or a yard with traffic, and clutter, on a slightly tilted ground.

Coordinates are those of the lidar: x forward, y left, z up, metres, the sensor at the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti_world.bodies import MODELS, Body, clutter, draw_size, stand
from slr_det.data.kitti_world.solids import Array, Material, Solid, Triple

SENSOR_HEIGHT = 1.73
#: Corners of every object lie between these in x, and their centres within this of y = 0.
NEAREST, FARTHEST, WIDEST = 2.0, 39.0, 19.0
#: Nothing stands in the lane before the sensor nearer than this, where it would hide the whole scene.
CLEAR = 8.0
#: Free space between the boxes of any two bodies.
GAP = 0.25

#: What covers the ground: asphalt, the paint of its lines, and the verge.
COVERINGS = (
    Material(0.22, (104, 104, 108), dropout=0.02, roughness=0.006),
    Material(0.7, (208, 208, 202), roughness=0.006),
    Material(0.34, (112, 122, 84), dropout=0.02, roughness=0.02),
)

_ROAD = 4.4  # half of its width
_PARKED = 5.6  # from its middle to the middle of the parked cars
_KERB = 6.7  # from its middle to the verge
_EDGE = math.radians(40)  # about where the camera's view ends
#: Least and greatest numbers of each kind in a frame.
_COUNTS = {"Car": (5, 12), "Pedestrian": (0, 6), "Cyclist": (0, 4)}
#: Shares of the kinds of clutter.
_CLUTTER = {
    "wall": 0.2,
    "hedge": 0.1,
    "bush": 0.2,
    "tree": 0.14,
    "pole": 0.1,
    "post": 0.1,
    "sign": 0.06,
    "bin": 0.1,
}
_TRIES = 30
_LANE = np.array([CLEAR / 2, 0.0, 0.0, CLEAR, 3.4, 0.0, 0.0])


@dataclass(frozen=True)
class Ground:
    """A plane with a street along it.

    Attributes:
        slope: Rise in metres per metre along x and y.
        heading: Of the street, radians.
        shift: Distance of the street's middle to the left of the sensor, metres.
        paved: Whether everything is paved, as in a yard without a street.
    """

    slope: tuple[float, float]
    heading: float
    shift: float
    paved: bool

    def height(self, x: float, y: float) -> float:
        """Return z of the ground at a place."""
        return -SENSOR_HEIGHT + self.slope[0] * x + self.slope[1] * y

    def covering(self, x: Array, y: Array) -> npt.NDArray[np.int64]:
        """Return the index into COVERINGS at places, of the shape of x and y."""
        across = np.abs(y * math.cos(self.heading) - x * math.sin(self.heading) - self.shift)
        kind = np.where((across > _KERB) & (not self.paved), 2, 0)
        dashed = (across < 0.08) & (x % 6 < 3)
        return np.where(dashed | (np.abs(across - _ROAD) < 0.08), 1, kind)

    def place(self, along: float, across: float) -> tuple[float, float]:
        """Return x and y of a place on the street."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return along * c - (across + self.shift) * s, along * s + (across + self.shift) * c


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in one frame; the objects of CLASSES come before the clutter."""

    ground: Ground
    bodies: tuple[Body, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw the scene of one frame: in two of three a street, else a yard where things stand in any direction."""
    ground = Ground(
        slope=(float(rng.normal(0, 0.006)), float(rng.normal(0, 0.006))),
        heading=float(rng.normal(0, 0.07)),
        shift=float(rng.uniform(-1.0, 3.0)),
        paved=bool(rng.random() < 1 / 3),
    )
    bodies: list[Body] = []
    for name, (least, most) in _COUNTS.items():
        for _ in range(int(rng.integers(least, most + 1))):
            _add_object(rng, ground, name, bodies)
    for kind in rng.choice(list(_CLUTTER), size=int(rng.integers(10, 20)), p=list(_CLUTTER.values())):
        _add_clutter(rng, ground, str(kind), bodies)
    return Scene(ground, tuple(bodies))


def apart(a: Array, b: Array, gap: float) -> bool:
    """Tell whether two boxes (7,) seen from above are more than ``gap`` metres apart (separating axes)."""
    if math.hypot(a[0] - b[0], a[1] - b[1]) > (math.hypot(a[3], a[4]) + math.hypot(b[3], b[4])) / 2 + gap:
        return True
    corners = [footprint(box) for box in (a, b)]
    for heading in (a[6], a[6] + math.pi / 2, b[6], b[6] + math.pi / 2):
        first, second = (c @ np.array([math.cos(heading), math.sin(heading)]) for c in corners)
        if max(first.min() - second.max(), second.min() - first.max()) > gap:
            return True
    return False


def footprint(box: Array) -> Array:
    """Return the corners of a box (7,) seen from above, (4, 2)."""
    c, s = math.cos(box[6]), math.sin(box[6])
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * box[3:5] / 2
    return np.asarray(local @ np.array([[c, s], [-s, c]]) + box[:2])


def _add_object(rng: np.random.Generator, ground: Ground, name: str, bodies: list[Body]) -> None:
    size = draw_size(rng, name)
    parts = MODELS[name](rng, size)
    for _ in range(_TRIES):
        if rng.random() < 0.12:
            spot = _at_the_edge(rng)
        else:
            spot = _in_the_open(rng) if ground.paved else _on_the_street(rng, ground, name)
        body = _stand(ground, name, size, parts, spot)
        corners = footprint(body.box)
        inside = corners[:, 0].min() >= NEAREST and corners[:, 0].max() <= FARTHEST
        if inside and abs(body.box[1]) <= WIDEST and _in_sight(corners) and _free(body, bodies):
            bodies.append(body)
            return


def _on_the_street(rng: np.random.Generator, ground: Ground, name: str) -> Triple:
    """x, y and heading of traffic, of what is parked, of who walks beside the street, and of a few who cross it."""
    along = float(rng.uniform(3, 38))
    side = float(rng.choice([-1.0, 1.0]))
    wobble = float(rng.normal(0, 0.05))
    if rng.random() < 0.15:
        across, turn = float(rng.uniform(-_ROAD, _ROAD)), side * math.pi / 2 + 4 * wobble
    elif name == "Car":
        lane = _PARKED if rng.random() < 0.55 else 1.9
        across, turn = side * lane + float(rng.normal(0, 0.2)), (0.0 if side < 0 else math.pi) + wobble
        if rng.random() < 0.15:
            turn += math.pi
    elif name == "Cyclist":
        lane = float(rng.uniform(2.5, 4.0)) if rng.random() < 0.7 else float(rng.uniform(7.2, 9))
        across, turn = side * lane, (0.0 if side < 0 else math.pi) + 2 * wobble
    else:
        across = side * float(rng.uniform(7.0, 10.5))
        turn = float(rng.choice([0.0, math.pi])) + 6 * wobble
    x, y = ground.place(along, across)
    return x, y, turn + ground.heading


def _in_the_open(rng: np.random.Generator) -> Triple:
    x = float(rng.uniform(4, 38))
    reach = min(WIDEST, x * math.tan(_EDGE))
    return x, float(rng.uniform(-reach, reach)), float(rng.uniform(-math.pi, math.pi))


def _at_the_edge(rng: np.random.Generator) -> Triple:
    """A place that the border of the picture often cuts."""
    x = float(rng.uniform(3.5, 18))
    angle = float(rng.choice([-1.0, 1.0])) * (_EDGE + float(rng.normal(0, 1.2)) * math.cos(_EDGE) / x)
    return x, x * math.tan(angle), float(rng.choice([0.0, math.pi])) + float(rng.normal(0, 0.3))


def _add_clutter(rng: np.random.Generator, ground: Ground, kind: str, bodies: list[Body]) -> None:
    size, parts = clutter(rng, kind)
    for _ in range(_TRIES):
        along, side = float(rng.uniform(5, 60)), float(rng.choice([-1.0, 1.0]))
        if kind == "wall":
            across, turn = side * float(rng.uniform(11.5, 24)), float(rng.choice([0.0, 0.0, math.pi / 2]))
        elif ground.paved:
            across, turn = side * float(rng.uniform(0, 16)), float(rng.uniform(-math.pi, math.pi))
        else:
            across, turn = side * float(rng.uniform(6.8, 16)), float(rng.normal(0, 0.1))
        body = _stand(ground, "", size, parts, (*ground.place(along, across), turn + ground.heading))
        if footprint(body.box)[:, 0].min() >= NEAREST and _free(body, bodies):
            bodies.append(body)
            return


def _stand(ground: Ground, name: str, size: Triple, parts: tuple[Solid, ...], spot: Triple) -> Body:
    x, y, heading = spot
    heading = (heading + math.pi) % (2 * math.pi) - math.pi
    return stand(name, size, parts, np.array([x, y, ground.height(x, y)]), heading)


def _in_sight(corners: Array) -> bool:
    """Whether some corner may lie in the picture."""
    return bool((np.abs(np.arctan2(corners[:, 1], corners[:, 0])) < _EDGE).any())


def _free(body: Body, bodies: list[Body]) -> bool:
    """Whether a body leaves the lane before the sensor and the space of the others free."""
    if not apart(body.box, _LANE, 0.0):
        return False
    return all(apart(body.box, other.box, GAP) for other in bodies)
