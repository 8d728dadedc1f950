"""Predict what a run costs before it is begun: time of every part, and bytes on disk."""
