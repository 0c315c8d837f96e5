"""One run in several processes, and the mesh of their devices."""
