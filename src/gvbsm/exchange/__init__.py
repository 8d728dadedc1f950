"""Distilled sets in and out: load, export, the Hub, DD-Ranking, `gvbsm train`."""
