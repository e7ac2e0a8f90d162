"""Figures, the one-file HTML report and the model card. No Keras here."""

from brainvq.reports import figures
from brainvq.reports.html import Report, Section, write_report
from brainvq.reports.model_card import ModelCard, write_model_card

__all__ = ["ModelCard", "Report", "Section", "figures", "write_model_card", "write_report"]
