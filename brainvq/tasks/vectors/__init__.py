"""Volumes each of which becomes one vector with a Gaussian prior."""

from brainvq.tasks.vectors.task import Vectors

__all__ = ["Vectors"]
