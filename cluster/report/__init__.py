"""The report of a run: `report.html` in its directory, and `rollcast report`."""

from cluster.report.page import leave_report, write_report

__all__ = ["leave_report", "write_report"]
