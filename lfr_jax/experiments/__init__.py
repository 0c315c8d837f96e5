"""Several runs beside each other, and what became of their blocks. Training needs nothing of it."""
