"""What is in a frame: the road and its lines, the traffic, what stands beside it, and the light."""

from __future__ import annotations

from dataclasses import dataclass

from slr_det.data.lane_world.road import Road

Colour = tuple[float, float, float]

WHITE: Colour = (236.0, 236.0, 230.0)
YELLOW: Colour = (226.0, 176.0, 62.0)


@dataclass(frozen=True)
class Mark:
    """A line painted along the road.

    Attributes:
        s: Of its middle beside the camera, metres.
        width: Metres.
        colour: Red, green, blue, 0 to 255.
        opacity: 0 to 1, where it is not worn.
        wear: 0 fresh to 1 mostly gone.
        dash: Length of its dashes in metres; 0 for a solid line.
        period: From one dash to the next, metres.
        phase: Where the first begins, metres.
        drift: ds/dz; not 0 for tyre marks only.
    """

    s: float
    width: float
    colour: Colour
    opacity: float
    wear: float = 0.0
    dash: float = 0.0
    period: float = 1.0
    phase: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True)
class Vehicle:
    """A box on wheels that drives along the road.

    Attributes:
        kind: "car", "van" or "truck".
        s, z: Middle of the end that faces the camera, metres.
        length, width, height: Metres.
        colour: Of its paint.
        oncoming: Whether its front faces the camera.
        braking: Whether its lights are bright.
    """

    kind: str
    s: float
    z: float
    length: float
    width: float
    height: float
    colour: Colour
    oncoming: bool
    braking: bool


@dataclass(frozen=True)
class Side:
    """What bounds the road on one side.

    Attributes:
        edge: s where the pavement ends, metres.
        kind: "open", "rail" or "wall".
        verge: Colour of the ground beyond.
        wall: Colour of a wall.
    """

    edge: float
    kind: str
    verge: Colour
    wall: Colour


@dataclass(frozen=True)
class Light:
    """The weather and what the camera makes of it.

    Attributes:
        sky: "overcast", "clear", "low sun" or "dusk".
        exposure: Factor of brightness.
        contrast: Factor around the middle grey.
        warmth: Factor of red, and divisor of blue.
        glare: Strength of the sun in the lens, 0 for none.
        sun: u and v of the sun, pixels.
        noise: Deviation of the sensor's noise where the picture is as bright as a road, grey levels.
    """

    sky: str
    exposure: float
    contrast: float
    warmth: float
    glare: float
    sun: tuple[float, float]
    noise: float


@dataclass(frozen=True)
class Shade:
    """Shadows on the road.

    Attributes:
        strength: Share of the light that they take.
        trees: Share of the ground under trees at the road's edge, 0 for none.
        side: 1 where the trees stand on the right, -1 on the left.
        bridges: z, width in metres and skew (dz/ds) of each bridge over the road.
    """

    strength: float
    trees: float
    side: float
    bridges: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Scene:
    """One frame, but for its textures.

    Attributes:
        asphalt: Grey of the pavement.
        joints: Distance of the joints across a concrete road, metres; 0 for asphalt.
        tracks: How much darker the tyres' tracks are, 0 to 1.
        left, right: The road's sides.
        marks: Lines, in the order in which they are painted.
        vehicles: The farthest first.
    """

    road: Road
    asphalt: Colour
    joints: float
    tracks: float
    left: Side
    right: Side
    marks: tuple[Mark, ...]
    vehicles: tuple[Vehicle, ...]
    shade: Shade
    light: Light
