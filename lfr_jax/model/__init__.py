"""The decoder, generation, and weights of other projects."""
