"""The stages in order: one run, its image sets, students and results."""
