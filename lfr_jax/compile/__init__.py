"""What a run would be on TPUs that are not here: compiled ahead of time, and read."""
