"""Sweeps over settings: the paper's tables and figures as studies, or your own."""
