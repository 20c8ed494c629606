"""Pages a person reads: figures of one scan, a page per scan, an index of the batch."""

from __future__ import annotations

from neuralprep.report.html import write_index, write_scan

__all__ = ["write_index", "write_scan"]
