"""A sweep's tables as pictures, verdicts and one self-contained page."""

from charjax.initlab.report.page import write_page, write_report
from charjax.initlab.report.tables import read_sweep
from charjax.initlab.report.verdicts import verdict_lines

__all__ = ["read_sweep", "verdict_lines", "write_page", "write_report"]
