"""Kinds of sample: slices, volumes, vectors of volumes, streamlines; each knows its kind alone."""

from brainvq.tasks.base import Task, of, tasks

__all__ = ["Task", "of", "tasks"]
