"""Handing results on: data sets in the layout of other programs, and their answers back on the scans' own grids."""
