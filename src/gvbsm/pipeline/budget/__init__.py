"""Settings for a user's own pictures that fit into a time budget."""
