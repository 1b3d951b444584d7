"""Metrics by the official evaluators: one module per benchmark."""
