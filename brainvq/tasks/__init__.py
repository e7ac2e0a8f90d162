"""Kinds of sample: slices, volumes, vectors of volumes, streamlines; each knows its kind alone."""

from brainvq.tasks.base import TASKS, Task, of, task

__all__ = ["TASKS", "Task", "of", "task"]
