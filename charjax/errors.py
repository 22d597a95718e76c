"""The one exception that stands for a mistake of the user's."""


class UserError(Exception):
    """A mistake in a config, a path, a prompt or a data file.

    The message is one line: what was given, what is allowed and what to do.
    The commands print it on stderr, without a traceback, and exit with 2.
    """
