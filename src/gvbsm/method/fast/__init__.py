"""Faster forms of the sums that `capture.py` takes; not needed to understand the method."""
