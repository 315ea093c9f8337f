"""Running the chains of a sweep: which of them, in which order, and by which engine."""
