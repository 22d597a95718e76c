"""Verdicts, pictures and one self-contained page of a sweep's tables."""

from charjax.initlab.report.page import write_page
from charjax.initlab.report.tables import read_sweep
from charjax.initlab.report.text import verdict_lines

__all__ = ["read_sweep", "verdict_lines", "write_page"]
