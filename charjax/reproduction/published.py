"""All rows, in the order of the table."""

import fnmatch

from charjax.errors import UserError, did_you_mean
from charjax.reproduction import names, shakespeare, warpeace
from charjax.reproduction.rows import Row

ROWS: tuple[Row, ...] = (*names.ROWS, *shakespeare.ROWS, *warpeace.ROWS)
ORDERINGS = names.ORDERINGS


def select(names: list[str]) -> tuple[Row, ...]:
    """Return the rows that --only names, in the table's order; a name may be a pattern.

    Raises:
      UserError: no row has such a name.
    """
    known = [row.name for row in ROWS]
    chosen: set[str] = set()
    for name in names:
        found = fnmatch.filter(known, name)
        if not found:
            raise UserError(
                f"--only: {name!r} given, and no row has that name{did_you_mean(name, known)} "
                "(python -m charjax.reproduce --list names all of them)"
            )
        chosen.update(found)
    return tuple(row for row in ROWS if row.name in chosen)
