"""Builds a vehicle of flat pieces: the end that faces the camera, the side that it sees, wheels and a shadow."""

from __future__ import annotations

import numpy as np

from slr_det.data.lane_world.brush import Piece
from slr_det.data.lane_world.road import Array, Road
from slr_det.data.lane_world.scene import Vehicle

_RUBBER = (22, 22, 24)
_GLASS = (40, 48, 56)
_TAIL, _BRAKE, _HEAD = (132, 26, 26), (250, 62, 48), (238, 238, 226)
_PLATE = (214, 214, 206)
_DETAIL = 70.0  # beyond this distance, metres, wheels and plates are no more than a pixel
_TOP = 0.86  # width of the roof, where the belt's is 1

#: Shares of a vehicle's height: underside, belt (where windows begin); and of its length: where the roof begins and
#: ends, from the end that faces the camera.
_PROFILES = {
    "car": (0.14, 0.6, 0.2, 0.62),
    "van": (0.12, 0.55, 0.04, 0.72),
    "truck": (0.1, 0.99, 0.01, 0.99),
}


class _Frame:
    """A vehicle's own coordinates: across in half widths from its middle, above the road and along it in metres."""

    def __init__(self, vehicle: Vehicle, road: Road) -> None:
        self.half = vehicle.width / 2
        self.x = float(road.middle(vehicle.z)) + vehicle.s
        self.z = vehicle.z
        self.slope = float(road.slope(vehicle.z + vehicle.length / 2))
        left, right = self.x - self.half, self.x + self.half
        # 1 where its right side is seen, -1 where its left is, 0 straight ahead.
        self.side = 1.0 if right < 0 else -1.0 if left > 0 else 0.0

    def at(self, *places: tuple[float, float, float]) -> Array:
        across, above, along = np.array(places).T
        return np.stack([self.x + across * self.half + along * self.slope, above, self.z + along], axis=1)

    def end(
        self, low: float, high: float, left: float, right: float, narrow: float = 1.0, deep: float = 0.0
    ) -> Array:
        """A quadrilateral across the vehicle; ``narrow`` scales its upper edge, which lies ``deep`` further along."""
        return self.at(
            (left, low, 0), (right, low, 0), (right * narrow, high, deep), (left * narrow, high, deep)
        )


def pieces(vehicle: Vehicle, road: Road, light: float) -> list[Piece]:
    """Return a vehicle's pieces, the farthest first.

    Args:
        vehicle: To draw.
        road: It drives on.
        light: Strength of its shadow, 0 to 1.
    """
    frame = _Frame(vehicle, road)
    found = _shadow(frame, vehicle, light)
    if frame.side:
        found += _flank(frame, vehicle)
    return found + _end(frame, vehicle)


def _shadow(frame: _Frame, vehicle: Vehicle, light: float) -> list[Piece]:
    found: list[Piece] = []
    for wide, long in ((1.22, 0.5), (1.12, 0.25), (1.02, 0.05)):
        places = frame.at(
            (-wide, 0, -long), (wide, 0, -long), (wide, 0, vehicle.length), (-wide, 0, vehicle.length)
        )
        found.append((places, (12, 12, 14), 0.25 + 0.2 * light))
    return found


def _flank(frame: _Frame, vehicle: Vehicle) -> list[Piece]:
    """The side: body, windows or a truck's box, and wheels."""
    h, l, side = vehicle.height, vehicle.length, frame.side
    low, belt, roof, front = _share(vehicle)
    paint = np.array(vehicle.colour) * 0.72
    found: list[Piece] = [
        (frame.at((side, low, 0), (side, low, l), (side, belt, l), (side, belt, 0)), paint, 1.0)
    ]
    top = _TOP * side
    if vehicle.kind != "truck":
        cabin = ((side, belt, 0), (side, belt, front + 0.12 * l), (top, h, front), (top, h, roof))
        found.append((frame.at(*cabin), paint, 1.0))
        low_glass, high_glass = belt + 0.02 * h, 0.94 * h
        glass = (
            (side, low_glass, 0.1 * l),
            (side, low_glass, front + 0.08 * l),
            (top, high_glass, front),
            (top, high_glass, roof + 0.02 * l),
        )
        found.append((frame.at(*glass), _GLASS, 1.0))
        found.append(
            (
                frame.at(
                    (side, belt, 0.42 * l), (side, belt, 0.45 * l), (top, h, 0.45 * l), (top, h, 0.42 * l)
                ),
                paint,
                1.0,
            )
        )
    if vehicle.z < _DETAIL:
        radius = 0.22 * h if vehicle.kind == "car" else 0.38 if vehicle.kind == "van" else 0.5
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for along in (0.2 * l, 0.8 * l):
            for share, colour in ((1.0, _RUBBER), (0.55, (112, 114, 118))):
                spots = [
                    (side, radius + share * radius * b, along + share * radius * a)
                    for a, b in zip(np.cos(turn), np.sin(turn), strict=True)
                ]
                found.append((frame.at(*spots), colour, 1.0))
    return found


def _end(frame: _Frame, vehicle: Vehicle) -> list[Piece]:
    """The rear, or the front of an oncoming vehicle."""
    h = vehicle.height
    low, belt, roof, _ = _share(vehicle)
    paint = np.array(vehicle.colour)
    found: list[Piece] = []
    tyre = 0.62 if vehicle.kind == "truck" else 0.7
    for side in (-1.0, 1.0):
        found.append((frame.end(0, low + 0.1, side * 0.96, side * tyre), _RUBBER, 1.0))
    found.append((frame.end(low, belt, -1, 1), paint, 1.0))
    if vehicle.kind == "truck":
        found.append((frame.end(low, low + 0.12, -0.95, 0.95), (48, 48, 50), 1.0))
        found.append((frame.end(low + 0.5, belt - 0.1, -0.01, 0.01), paint * 0.7, 1.0))
    else:
        # Roof, then the glass below it; the body's upper part is lighter, the bumper darker.
        found.append((frame.end(belt, h, -1, 1, _TOP, roof), paint * 0.9, 1.0))
        found.append((frame.end(belt + 0.03 * h, 0.95 * h, -0.88, 0.88, 0.9, roof * 0.9), _GLASS, 1.0))
        found.append((frame.end(belt - 0.06 * h, belt, -0.97, 0.97), np.minimum(paint * 1.15, 255), 1.0))
        found.append((frame.end(low, low + 0.14 * h, -1, 1), paint * 0.55, 1.0))
    lamp_low, lamp_high = (
        (low + 0.2, low + 0.36) if vehicle.kind == "truck" else (belt - 0.2 * h, belt - 0.07 * h)
    )
    colour = _HEAD if vehicle.oncoming else _BRAKE if vehicle.braking else _TAIL
    for side in (-1.0, 1.0):
        found.append((frame.end(lamp_low, lamp_high, side * 0.96, side * 0.68), colour, 1.0))
    if vehicle.z < _DETAIL:
        middle = low + 0.5 * (belt - low) if vehicle.kind != "truck" else low + 0.3
        found.append((frame.end(middle - 0.06, middle + 0.08, -0.17, 0.17), _PLATE, 1.0))
    return found


def _share(vehicle: Vehicle) -> tuple[float, float, float, float]:
    """Heights of underside and belt, and where the roof begins and ends along the vehicle, metres."""
    low, belt, roof, front = _PROFILES[vehicle.kind]
    return low * vehicle.height, belt * vehicle.height, roof * vehicle.length, front * vehicle.length
