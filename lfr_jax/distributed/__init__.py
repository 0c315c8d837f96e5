"""One run in several processes, on a mesh of devices."""
