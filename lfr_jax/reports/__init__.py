"""What runs left behind, read back and drawn. Training needs nothing of it."""
