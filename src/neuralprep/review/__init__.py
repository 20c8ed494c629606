"""Review of an output folder: the page of the batch served on this machine, decisions saved into ``review.tsv``."""
