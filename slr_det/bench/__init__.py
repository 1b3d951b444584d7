"""Measures of the engine's speed and memory: ``python -m slr_det.bench engine``."""
