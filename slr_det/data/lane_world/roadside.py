"""Builds what stands beside and over the road: walls, guard rails and bridges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from slr_det.data.lane_world.brush import NEAREST, Piece
from slr_det.data.lane_world.road import Road
from slr_det.data.lane_world.scene import Scene, Side

_ENDS = 220.0  # of what stands beside the road, metres
_POST = 4.0  # between the posts of a rail
_STEEL = np.array([150.0, 154.0, 158.0])
_CONCRETE = np.array([142.0, 140.0, 134.0])
_CLEARANCE, _DECK = 5.2, 1.5  # of a bridge, metres


def side_pieces(scene: Scene) -> list[Piece]:
    """Return the walls and rails on both sides, the farthest first."""
    return [*_along(scene.road, scene.left, -1), *_along(scene.road, scene.right, 1)]


def bridge_pieces(scene: Scene) -> list[tuple[float, list[Piece]]]:
    """Return the distance of each bridge that is in sight and its pieces."""
    found = []
    for z, length, _ in scene.shade.bridges:
        pieces: list[Piece] = []
        x = float(scene.road.middle(z))
        for side in (scene.left, scene.right):
            foot = x + side.edge + np.sign(side.edge) * 1.2
            pieces.append(
                (_upright(foot - 0.6, foot + 0.6, 0.0, _CLEARANCE, z + length / 2), _CONCRETE * 0.55, 1.0)
            )
        far, near = z + length, max(z, NEAREST)
        under = [
            (-200, _CLEARANCE, near),
            (200, _CLEARANCE, near),
            (200, _CLEARANCE, far),
            (-200, _CLEARANCE, far),
        ]
        pieces.append((under, _CONCRETE * 0.4, 1.0))
        pieces.append((_upright(-200, 200, _CLEARANCE, _CLEARANCE + _DECK, near), _CONCRETE, 1.0))
        pieces.append(
            (_upright(-200, 200, _CLEARANCE + _DECK, _CLEARANCE + _DECK + 0.8, near), _CONCRETE * 1.12, 1.0)
        )
        found.append((z, pieces))
    return found


def _along(road: Road, side: Side, sign: int) -> list[Piece]:
    if side.kind == "open":
        return []
    wall = side.kind == "wall"
    s = side.edge + sign * 0.3
    stations = np.geomspace(1.2, _ENDS, 28)[::-1]
    pieces: list[Piece] = []
    if not wall:
        for z in np.arange(80.0, 2.0, -_POST):
            x = float(road.middle(z)) + s
            pieces.append((_upright(x - 0.07, x + 0.07, 0.0, 0.7, z), _STEEL * 0.6, 1.0))
    bands = (
        ((0.0, 0.3, 0.86), (0.3, 0.84, 1.0), (0.84, 0.9, 1.14))
        if wall
        else ((0.45, 0.6, 0.85), (0.6, 0.76, 1.08))
    )
    colour = np.array(side.wall) if wall else _STEEL
    for far, near in pairwise(stations):
        ends = [(float(road.middle(z)) + s, float(z)) for z in (far, near)]
        for low, high, shade in bands:
            (a, z_a), (b, z_b) = ends
            places = [(a, low, z_a), (b, low, z_b), (b, high, z_b), (a, high, z_a)]
            pieces.append((places, colour * shade, 1.0))
    return pieces


def _upright(
    left: float, right: float, low: float, high: float, z: float
) -> list[tuple[float, float, float]]:
    return [(left, low, z), (right, low, z), (right, high, z), (left, high, z)]
