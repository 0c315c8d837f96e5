"""From text to a token store, and from store to store. Training needs nothing of it."""
