"""Language-model pretraining that chooses what to read next. See README.md."""
