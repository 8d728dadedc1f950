"""What a run keeps on disk: teachers, statistics, images, soft labels, and their recipes."""
