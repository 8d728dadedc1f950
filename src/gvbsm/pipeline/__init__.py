"""One run: its stages in order, image sets, students and results."""
