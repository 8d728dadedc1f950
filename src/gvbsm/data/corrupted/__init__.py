"""Corrupted copies of test pictures (Hendrycks & Dietterich 2019)."""
