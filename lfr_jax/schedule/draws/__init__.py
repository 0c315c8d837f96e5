"""From rates to the order of the data."""
