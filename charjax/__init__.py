"""charjax: a character-level language-model laboratory in JAX."""

import sys

from charjax import signals

__version__ = "0.1.0"

# So it is while `python -m` looks for one of the commands, and at no other time.
if sys.argv[:1] == ["-m"]:
    signals.before_imports()
