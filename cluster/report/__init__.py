"""Reports: `report.html` in each run directory, and `rollcast report`."""

from cluster.report.page import leave_report, write_report

__all__ = ["leave_report", "write_report"]
