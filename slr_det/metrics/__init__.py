"""Metrics checked against the official evaluators."""
