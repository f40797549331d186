"""Internal: key life cycle. Public names are in :mod:`streamcrypt`."""
