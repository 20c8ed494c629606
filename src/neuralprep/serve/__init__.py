"""A page on this machine that takes scans, processes them one after the other, and gives the results back."""
