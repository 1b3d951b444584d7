"""Detector compression by weight pruning with Surrogate Lagrangian Relaxation (SLR)."""

__version__ = "0.1.0"
