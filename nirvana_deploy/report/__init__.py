"""The run's page: `report.html`, one self-contained file drawn from stored numbers only."""

from nirvana_deploy.report.page import write_report

__all__ = ["write_report"]
