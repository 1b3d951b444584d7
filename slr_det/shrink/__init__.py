"""Filters that really go: a pruned network becomes a smaller dense one with the same outputs."""

from slr_det.shrink.channels import Channel, channels_of
from slr_det.shrink.network import Shrinkage, compare, shrink
from slr_det.shrink.plan import Left, Plan, Widths, find_dead, sums
from slr_det.shrink.resize import resize_to

__all__ = [
    "Channel",
    "Left",
    "Plan",
    "Shrinkage",
    "Widths",
    "channels_of",
    "compare",
    "find_dead",
    "resize_to",
    "shrink",
    "sums",
]
