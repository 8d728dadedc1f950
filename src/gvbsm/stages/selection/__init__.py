"""Which real pictures: coresets, forgetting, and starts of a synthesis."""
