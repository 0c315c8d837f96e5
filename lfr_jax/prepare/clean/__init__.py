"""What a store loses before training: duplicates, and text that held-out text shares."""
