"""Checks before any long work, of what a run is made of; `preflight` has those of the whole."""
