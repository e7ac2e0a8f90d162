"""Volumes: whole scans that become a grid of codes, in one brain's own space or the template's."""

from brainvq.tasks.volumes.task import Volumes

__all__ = ["Volumes"]
