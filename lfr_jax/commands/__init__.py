"""The subcommands of `lfr`, each a function of its arguments."""
