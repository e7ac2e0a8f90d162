"""Bundles of white matter: samples are groups of streamlines, in [-1, 1]."""

from brainvq.tasks.streamlines.task import Streamlines

__all__ = ["Streamlines"]
