"""Internal: the container between topics."""
