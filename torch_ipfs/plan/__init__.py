"""Who reads what, and in which order: pure functions over integers. No I/O, no torch, no manifest."""
