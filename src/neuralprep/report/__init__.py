"""Pages a person reads: one per scan with its figures, one for a batch or any other group of scans."""

from __future__ import annotations

from neuralprep.report.batch_pages import write_citation, write_group_level, write_subjects
from neuralprep.report.group_page import write_group, write_index
from neuralprep.report.scan_page import write_scan

__all__ = ["write_citation", "write_group", "write_group_level", "write_index", "write_scan", "write_subjects"]
