"""Slices: axial slices of scans, or pictures, each of which becomes a grid of codes."""

from brainvq.tasks.slices.task import Slices

__all__ = ["Slices"]
