"""Initialisation schemes: the draw and the scale of each parameter, by its role."""

from charjax.init.scheme import (
    Drawn,
    Rule,
    Scheme,
    check_cover,
    find_adam_factors,
    find_factors,
    initialise,
    rules_for,
)
from charjax.init.schemes import (
    find_scheme,
    is_own_scheme,
    scheme_for,
    scheme_names,
    scheme_numbers,
)
from charjax.init.site import Site

__all__ = [
    "Drawn",
    "Rule",
    "Scheme",
    "Site",
    "check_cover",
    "find_adam_factors",
    "find_factors",
    "find_scheme",
    "initialise",
    "is_own_scheme",
    "rules_for",
    "scheme_for",
    "scheme_names",
    "scheme_numbers",
]
