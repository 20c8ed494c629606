"""Registration: affine search and refinement."""
