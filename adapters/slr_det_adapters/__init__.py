"""Adapters that put the slr_det engine inside trainers people already use, one package per upstream."""
