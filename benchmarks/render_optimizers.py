"""Write the tables of docs/optimizers.md from the list of optimisers."""

from charjax.config.optimizers import KINDS, REFUSED


def page_parts() -> dict[str, str]:
    """Return the parts of docs/optimizers.md: the optimisers, and those that are refused."""
    return {"optimizers": _kinds(), "refused": _refused()}


def _kinds() -> str:
    lines = [
        "| `optim.kind` | source | its own settings and their defaults | numbers per parameter |",
        "|---|---|---|---|",
    ]
    for name, kind in KINDS.items():
        settings = ", ".join(
            f"{key} {'unset' if value is None else format(value, 'g')}"
            for key, value in kind.settings.items()
        )
        lines.append(f"| `{name}` | {kind.source} | {settings or 'none'} | {kind.state} |")
    return "\n".join(lines)


def _refused() -> str:
    names: dict[str, list[str]] = {}
    for name, reason in REFUSED.items():
        names.setdefault(reason, []).append(f"`{name}`")
    lines = [f"| {', '.join(those)} | {reason} |" for reason, those in names.items()]
    return "\n".join(["| name | reason |", "|---|---|", *lines])
