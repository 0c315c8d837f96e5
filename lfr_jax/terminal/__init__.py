"""What people are shown: progress, tables, and the one line that tells what failed."""

from lfr_jax.terminal.streams import Unfailing as Unfailing
from lfr_jax.terminal.streams import bar as bar
from lfr_jax.terminal.streams import escaped as escaped
from lfr_jax.terminal.streams import flush_standard_streams as flush_standard_streams
from lfr_jax.terminal.streams import printable as printable
from lfr_jax.terminal.streams import shield_standard_streams as shield_standard_streams
from lfr_jax.terminal.streams import show as show
