"""What several test files share: toy data, work directories, processes, the slow reference."""
