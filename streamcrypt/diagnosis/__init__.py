"""Internal: what ``streamcrypt doctor`` and ``streamcrypt check`` look at. Nothing is written."""
