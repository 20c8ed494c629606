"""Several images at once: groups of heads, visits of one person, contrasts of one session."""
