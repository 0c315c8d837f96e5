"""Files that are whole or absent, here and in object stores: token files, checkpoints, a run's folder."""
