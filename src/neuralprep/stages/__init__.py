"""The stages of a run, in running order: conform, look, affine, brain, intensity, space, quality.

Each is a function from volumes and transforms to volumes and transforms; none touches a file.
"""
