"""Scores of masks, images and transforms against a truth; plain functions on arrays."""
