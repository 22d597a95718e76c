"""charjax: a character-level language-model laboratory in JAX."""

__version__ = "0.1.0"
