"""Choose in which form each network is computed, by races on this machine."""
