"""Initialisation schemes: what a parameter is, and so how it is drawn."""

from charjax.init.draws import Site
from charjax.init.schemes import Scheme, find_scheme, initialise, scheme_names

__all__ = ["Scheme", "Site", "find_scheme", "initialise", "scheme_names"]
