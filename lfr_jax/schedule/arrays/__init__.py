"""Per-block arrays: losses observed, estimated, grouped and selected; sharded or not."""
