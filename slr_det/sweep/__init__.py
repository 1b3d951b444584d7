"""A grid of runs, methods by rates by seeds, as one command: ``python -m slr_det.sweep SWEEP.yaml``."""
