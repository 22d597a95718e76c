"""HTML pages and their parts: runs beside each other, sweeps of initialisations.

A page is one file that loads nothing from a network. Every value is escaped by the templates.
"""

from charjax.pages.report import write_report

__all__ = ["write_report"]
