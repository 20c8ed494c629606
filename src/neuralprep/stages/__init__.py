"""The stages of a run, in running order: conform, look, affine, brain, bias, intensity, quality.

Each is a function from volumes and transforms to volumes and transforms; none touches a file.
"""
