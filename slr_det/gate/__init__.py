"""Is a model good enough? Limits, a saved baseline, and the files that a CI system reads."""

from slr_det.gate.verb import Gate, add_gate_options, give_back_setting

__all__ = ["Gate", "add_gate_options", "give_back_setting"]
