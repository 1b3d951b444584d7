"""Tensors in the runtime's layouts, with guards around them that show what a kernel read or wrote beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from slr_det.runtime.library import SLACK, Activation, Isa, Layout, Library, Pool

#: Half a unit in the last place of a float32 near 1: what one rounding costs at most.
ROUNDING = 2.0**-24
#: Of leaky ReLUs.
SLOPE = 0.1
DENSITIES = st.one_of(st.sampled_from((0.0, 0.02, 0.1, 0.5, 1.0)), st.floats(0, 1))

Pools = list[Pool | None]

calm = settings(deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Room:
    """How much more than its numbers a tensor takes, in rows, columns and floats; all zero for a contiguous one."""

    above: int = 0
    left: int = 0
    row: int = 0
    plane: int = 0
    image: int = 0
    before: int = 0
    images_inside: bool = False  # the images of a channel lie side by side, instead of an image's channels


def rooms() -> st.SearchStrategy[Room]:
    """Every kind of layout; none at all is the most frequent, as in a model's input."""
    few = st.integers(0, 4)
    gaps = st.sampled_from((0, 0, 1, 17))
    return st.one_of(
        st.just(Room()), st.builds(Room, few, few, st.integers(0, 9), gaps, gaps, gaps, st.booleans())
    )


class Placed:
    """A float32 tensor in a layout. What is not the tensor's is NaN, so that whoever reads it gives himself away.

    Args:
        shape: Images, channels, height, width.
        room: Margins and gaps.
        slack: Whether floats that may be read (and are NaN) follow the last plane; otherwise the memory ends there.
        dirty: Fill margins with NaN as well, for functions that have to clear them.
    """

    def __init__(
        self, shape: tuple[int, ...], room: Room, *, slack: bool = False, dirty: bool = False
    ) -> None:
        images, channels, height, width = shape
        row = width + room.left + room.row
        margin = room.above * row + room.left
        span = (height - 1) * row + width + 2 * margin
        plane = (2 * room.above + height) * row + room.left + room.plane
        image = channels * plane + room.image
        if room.images_inside:
            image, plane = plane, images * plane + room.image
        last = (images - 1) * image + (channels - 1) * plane
        padded = room.above > 0 or room.left > 0
        self.layout = Layout(
            images, channels, height, width, room.before + margin, image, plane, row, room.above, room.left
        )
        self.buffer = torch.full((room.before + last + span + (SLACK if slack or padded else 0),), torch.nan)
        if not (dirty and padded):
            self._margins(self.buffer, span).zero_()
        self.before = self.buffer.clone()
        self._margins(self.before, span).zero_()
        self.picture(self.before).zero_()

    def _margins(self, buffer: Tensor, span: int) -> Tensor:
        at = self.layout
        first = at.origin - at.above * at.row - at.left
        return buffer.as_strided((at.images, at.channels, span), (at.image, at.plane, 1), first)

    def picture(self, buffer: Tensor | None = None) -> Tensor:
        """The tensor itself, a view."""
        at = self.layout
        shape, strides = (at.images, at.channels, at.height, at.width), (at.image, at.plane, at.row, 1)
        return (self.buffer if buffer is None else buffer).as_strided(shape, strides, at.origin)

    @classmethod
    def of(cls, tensor: Tensor, room: Room, *, slack: bool = False) -> Placed:
        """A copy of a tensor."""
        placed = cls(tuple(tensor.shape), room, slack=slack)
        placed.picture().copy_(tensor)
        return placed

    @property
    def address(self) -> int:
        """For the library."""
        return self.buffer.data_ptr()

    def taken(self) -> Tensor:
        """The tensor, after checking that its margins are zero and that nothing else was written."""
        result = self.picture().clone()
        rest = self.buffer.clone()
        self.picture(rest).zero_()
        wrong = (rest.view(torch.int32) != self.before.view(torch.int32)).nonzero().flatten()
        assert wrong.numel() == 0, (
            f"written outside of the picture, at {wrong[:8].tolist()} of {rest.numel()}"
        )
        return result


def activated(x: Tensor, activation: int, slope: float) -> Tensor:
    """What the runtime's activation is, as torch says it."""
    if activation == Activation.RELU:
        return x.relu()
    if activation == Activation.LEAKY_RELU:
        return functional.leaky_relu(x, slope)
    return functional.silu(x) if activation == Activation.SILU else x


def assert_close(got: Tensor, exact: Tensor, terms: Tensor, count: int) -> None:
    """Compare with a float64 result: each of ``count`` additions may round once, relative to the ``terms`` in all."""
    bound = 1.2 * ROUNDING * (count + 2) * terms + 16 * ROUNDING * exact.abs() + 1e-30
    worst = ((got.double() - exact).abs() / bound).max().item()
    assert worst <= 1, f"an error of {worst:.3g} times what rounding explains"


def isas(library: Library) -> list[Isa]:
    """All instructions that can be tested here."""
    return [isa for isa in Isa if library.has_isa(isa)]


@contextmanager
def using(library: Library, isa: Isa) -> Iterator[None]:
    """Some instructions, for a while."""
    before = library.isa
    library.use_isa(isa)
    try:
        yield
    finally:
        library.use_isa(before)


def pools_of(library: Library) -> Pools:
    """For one to three threads: one needs no pool, and may have one."""
    return [None, library.pool(1), library.pool(2), library.pool(3)]


def kept(shape: tuple[int, ...], density: float, generator: torch.Generator) -> Tensor:
    """Weights of which about so many are not zero."""
    keep = torch.rand(shape, generator=generator) < density
    return torch.randn(shape, generator=generator) * keep
