"""Group → numbers: the RULER judge and group-relative advantages."""
