"""Internal: the envelope in the Kafka header. Public names are in :mod:`streamcrypt`."""
