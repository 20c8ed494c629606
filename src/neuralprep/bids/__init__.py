"""BIDS: what output files are called, what their sidecars say, and what a run must leave behind."""
