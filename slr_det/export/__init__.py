"""Export of a trained network: ONNX or OpenVINO, checked against torch; see docs/export.md.

Nothing here knows a trainer: an adapter hands over an :class:`Exportable`. The packages of the extra ``export`` are
imported when they are needed.
"""

from __future__ import annotations

from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det.export.writing import FORMATS, Exported, ExportSettings, check_settings, export_network

__all__ = [
    "FORMATS",
    "ExportSettings",
    "Exportable",
    "Exported",
    "Network",
    "Tensors",
    "check_settings",
    "export_network",
]
