"""Internal: wrappers of confluent-kafka. Public names are in :mod:`streamcrypt`."""
