"""Internal: ciphers and derived keys. Public names are in :mod:`streamcrypt`."""
