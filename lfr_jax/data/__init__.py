"""What training reads: the token store, its blocks, and batches of them."""
