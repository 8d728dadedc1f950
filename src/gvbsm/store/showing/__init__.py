"""Show the images of a set, with the names of its classes in any script."""
