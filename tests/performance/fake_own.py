"""A contestant that executes a file of the user's: its facts are what an object there returns."""

from types import SimpleNamespace

from charjax.extensions import bind, find_object


def build(activation: str) -> SimpleNamespace:
    """Call the function that a setting names with 2."""
    field = "model.activation"
    return SimpleNamespace(facts=find_object(field, bind(field, activation))(2))
