"""Atomic files, token files and checkpoints, on this machine or in an object store; the folder of a run."""
