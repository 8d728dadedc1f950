"""Ideas of later papers, one file each; `gvbsm.method` imports none of them."""
