"""DICOM: from a folder of files to the anatomical series in it, each as a NIfTI image in its proven place.

Read in this order: `tags` (what one file says), `stacks` (files to stacks of slices), `choice` (which are anatomy),
`layout` (where the slices lie), `convert` (dcm2niix, checked), `search` (a folder to series).
"""
