"""The grid of a sweep: its runs in groups that share a program, and each run's configuration."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from charjax.config import Config
from charjax.config.values import value_text
from charjax.errors import UserError
from charjax.init import find_scheme, scheme_for, scheme_numbers
from charjax.initlab.sizes import size_of, with_model, with_size
from charjax.initlab.sweeps.axes import Axes
from charjax.initlab.sweeps.settings import is_traced, with_settings


@dataclasses.dataclass(frozen=True)
class Point:
    """One run; gain None is the scheme's default.

    `settings` are the values of the axes that are given by their settings' names.
    """

    scheme: str
    gain: float | None
    depth: int
    width: int
    rate: float
    seed: int
    settings: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that share a program: one size, and schemes that need the same architecture.

    Attributes:
      depth: of the network.
      width: of the network.
      configs: by scheme; they differ in `init` alone.
      points: the runs, scheme by scheme.
      names: the settings whose values are a point's `settings`.
      traced: those of them that may differ from run to run, as they are data of the program.
    """

    depth: int
    width: int
    configs: dict[str, Config]
    points: tuple[Point, ...]
    names: tuple[str, ...] = ()
    traced: frozenset[str] = frozenset()

    @property
    def config(self) -> Config:
        """One of the configs, for the settings they share."""
        return next(iter(self.configs.values()))

    @property
    def run_cost(self) -> int:
        """The cost of a run beside that of others: a constant, and the FLOPs of hidden layers."""
        of_batch = self.config.train.batch_size * self.config.optim.accumulate_steps
        return of_batch * (5_000 + self.width**2 * max(1, self.depth))

    @property
    def title(self) -> str:
        """The size and the settings that its runs share, in words."""
        words = [f"depth {self.depth}", f"width {self.width}"]
        first = zip(self.names, self.points[0].settings, strict=True)
        words += [f"{name}={value_text(x)}" for name, x in first if name not in self.traced]
        return ", ".join(words)


def make_groups(base: Config, axes: Axes) -> list[Group]:
    """Lay out the grid.

    Raises:
      UserError: an unknown scheme, one that does not suit the family, or a size that the family
        cannot have.
    """
    for number, value in _scheme_settings(base).items():
        if all(number not in scheme_numbers(scheme) for scheme in axes.schemes):
            raise UserError(
                f"init.{number}: {value_text(value)} given; none of --scheme "
                f"{','.join(axes.schemes)} reads it: leave it out"
            )
    groups: list[Group] = []
    for config, traced, combinations in _programs(base, axes):
        depth, width = size_of(config)
        for d in axes.depths or (depth,):
            for w in axes.widths or (width,):
                sized = with_size(config, d, w, ("--depth", "--width"))
                alike: dict[str, dict[str, Config]] = {}
                for scheme in axes.schemes:
                    one = _with_scheme(sized, scheme, axes)
                    alike.setdefault(one.model.model_dump_json(), {})[scheme] = one
                for configs in alike.values():
                    points = tuple(
                        Point(scheme, gain, d, w, rate, seed, values)
                        for scheme in configs
                        for gain in axes.gains
                        for values in combinations
                        for rate in axes.rates or (config.optim.learning_rate,)
                        for seed in axes.seeds
                    )
                    groups.append(Group(d, w, configs, points, axes.names, traced))
    return groups


def _programs(
    base: Config, axes: Axes
) -> Iterator[tuple[Config, frozenset[str], list[tuple[Any, ...]]]]:
    """Yield (config, traced settings, combinations) for combinations that share a program."""
    alike: dict[Any, list[tuple[Any, ...]]] = {}
    configs: dict[Any, Config] = {}
    for values in axes.combinations:
        settings = dict(zip(axes.names, values, strict=True))
        config = with_settings(base, settings)
        traced = frozenset(name for name in settings if is_traced(config, name))
        key = traced, tuple(x for name, x in settings.items() if name not in traced)
        configs.setdefault(key, config)
        alike.setdefault(key, []).append(values)
    for key, combinations in alike.items():
        yield configs[key], key[0], combinations


def _with_scheme(config: Config, name: str, axes: Axes) -> Config:
    """Return the configuration of a scheme, with the architecture that it needs."""
    read = scheme_numbers(name)
    settings = {key: value for key, value in _scheme_settings(config).items() if key in read}
    if axes.gains != (None,):
        # The program multiplies the draw at gain 1 by each run's gain.
        settings["gain"] = 1.0
    init = type(config.init)(scheme=name, **settings)
    scheme = find_scheme(init)
    needs = scheme.needs.get("model.residual", ())
    residual = getattr(config.model, "residual", None)
    changes = {key.removeprefix("model."): value for key, value in scheme.sets.items()}
    if needs and residual not in needs:
        changes["residual"] = needs[0]
    if residual is not None and changes:
        config = with_model(config, changes)
    config = config.model_copy(update={"init": init})
    scheme_for(config)
    return config


def _scheme_settings(config: Config) -> dict[str, Any]:
    return config.init.model_dump(exclude={"scheme"}, exclude_none=True)
