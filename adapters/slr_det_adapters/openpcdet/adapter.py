"""The adapter protocol answered with a checkout of OpenPCDet. Nothing of it is imported before it is needed."""

from __future__ import annotations


class OpenPCDetAdapter:
    """3D detectors trained by the user's own OpenPCDet checkout."""

    name = "openpcdet"
