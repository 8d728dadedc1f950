"""Files of a run: teachers, statistics, images, soft labels, and their recipes."""
