"""Ideas of later papers, one a file; `method` imports none of them."""
