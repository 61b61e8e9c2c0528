"""Pages drawn from stored numbers only, each one self-contained file: of a run, and of several."""

from nirvana_deploy.report.draw_report import write_compared
from nirvana_deploy.report.page import write_report

__all__ = ["write_compared", "write_report"]
