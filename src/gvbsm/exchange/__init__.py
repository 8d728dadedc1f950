"""Distilled sets in and out: load, export, and `gvbsm train`."""
