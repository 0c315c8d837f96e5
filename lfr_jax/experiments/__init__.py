"""Compares several runs, and shows how the losses of single blocks changed. Training imports nothing from here."""
