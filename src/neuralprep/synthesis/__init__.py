"""The generative head model: label maps in, images of any contrast with exact truth out.

Only torch and numpy are needed to render samples, so training runs on a bare GPU machine; reading label
maps from NIfTI files (:mod:`neuralprep.synthesis.atlas`) additionally needs nibabel and scipy.
"""
