"""Ideas of later papers, one per file; `method` imports none of them."""
