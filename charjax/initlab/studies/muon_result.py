"""The conclusion of the study of schemes under Muon."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from charjax.initlab.studies.muon_ranking import Agreement, Ranking, rankings_of
from charjax.initlab.studies.muon_ranks import Estimate
from charjax.initlab.studies.muon_settings import PAIRS, Network, Settings, rates_of
from charjax.initlab.studies.study import Conclusion, Data, Table
from charjax.reproduction.checks import Check, Mean, at_least, at_most, shown, stated

_SPREADS = ("worst less best scheme", "median less best scheme")


def conclude(settings: Settings, data: Data) -> Conclusion:
    """Return what follows from the losses of `measure`."""
    sentences: list[list[str]] = []
    checks: list[Check] = []
    tables: list[Table] = []
    for network in settings.networks:
        rankings = rankings_of(settings, data, network)
        agreements = [Agreement(rankings[one], rankings[other]) for one, other in PAIRS]
        sentences.append(_answer(settings, network, rankings, agreements))
        checks += _checks(settings, network, rankings, agreements)
        tables += [_losses(network, rankings), _spreads(network, rankings)]
        tables.append(_taus(settings, network, agreements))
    # The same sentence of every network, then the next one; not all have the last.
    answer = [one for each in itertools.zip_longest(*sentences) for one in each if one]
    return Conclusion(answer, checks, tables)


def _answer(
    settings: Settings,
    network: Network,
    rankings: dict[str, Ranking],
    agreements: Sequence[Agreement],
) -> list[str]:
    under_muon = rankings["Muon"]
    named = [_behind(under_muon, c) for c in under_muon.mattering]
    count, others = len(named), len(network.schemes) - 1
    sentences = [
        f"{network.name}: under Muon {count} of {others} schemes {_are(count)} worse than the best "
        f"({_best(under_muon)}) by more than {settings.matters:g} nats"
        + (f": {'; '.join(named)}." if named else "."),
        f"{network.name}: distinguishable from the best scheme are "
        + _listed(f"{len(rankings[name].worse)} of {others} under {name}" for name in rankings)
        + "; the worst is behind the best by "
        + _listed(f"{_shown(rankings[name].spread(0))} under {name}" for name in rankings)
        + " nats.",
        _claim(network, agreements[0]),
        f"{network.name}: Kendall's tau of the rankings is "
        + _listed(
            f"{_shown(pair.tau)} between {pair.one.optimiser} and {pair.other.optimiser}"
            for pair in agreements
        )
        + "; of two halves of the seeds under one optimiser "
        + _listed(f"{_number(each.reliability)} ({name})" for name, each in rankings.items())
        + ".",
    ]
    if edges := _edges(rankings):
        sentences.append(f"{network.name}: a best rate is at an end of its grid: {edges}.")
    return sentences


def _claim(network: Network, pair: Agreement) -> str:
    """Compare the spread under Muon with that under AdamW."""
    words = []
    for which, what in enumerate(_SPREADS):
        less = pair.less_spread(which)
        words.append(
            f"{what} {_shown(pair.other.spread(which))} against {_shown(pair.one.spread(which))}, "
            f"a difference of {_shown(less)} nats: {_found(less)}"
        )
    return (
        f'{network.name}: "Muon makes initialisation matter less than AdamW": {"; ".join(words)}.'
    )


def _found(less: Estimate) -> str:
    if less.high < 0:
        return "it does"
    if less.low > 0:
        return "it makes it matter more"
    return "unclear"


def _checks(
    settings: Settings,
    network: Network,
    rankings: dict[str, Ranking],
    agreements: Sequence[Agreement],
) -> list[Check]:
    of = f"{settings.seeds} seeds, each scheme at its best of {len(network.rates[0][1])} rates"
    checks = [
        shown(
            f"{network.name}: {what}, Muon's below AdamW's",
            less.high < 0,
            _mean(less, settings.seeds),
            of=of,
            unit="nats",
        )
        for what, less in ((what, agreements[0].less_spread(k)) for k, what in enumerate(_SPREADS))
    ]
    lowest = min(rankings.values(), key=lambda each: _rank(each.reliability))
    checks.append(
        at_least(
            f"{network.name}: Kendall's tau of rankings from two halves of the seeds, lowest of "
            "the optimisers",
            Mean(lowest.reliability),
            settings.reliability,
            of=f"all divisions into halves, {lowest.optimiser}",
        )
    )
    checks += [
        stated(
            f"{network.name}: Kendall's tau, {pair.one.optimiser} and {pair.other.optimiser}",
            _mean(pair.tau, settings.seeds),
            f"95 % interval {_interval(pair.tau)}; of halves {_number(pair.of_halves)}; "
            f"the rankings: {pair.verdict(settings.reliability)}",
            of=of,
        )
        for pair in agreements
    ]
    cells = len(network.schemes) * len(rankings)
    edges = sum(int(each.at_edge.sum()) for each in rankings.values())
    checks.append(
        at_most(
            f"{network.name}: best rates at an end of their grid",
            Mean(float(edges)),
            float(math.floor(settings.at_edge * cells)),
            of=f"{cells} pairs of scheme and optimiser",
        )
    )
    return checks


def _losses(network: Network, rankings: dict[str, Ranking]) -> Table:
    head = ["scheme"]
    for name in rankings:
        head += [f"{name}: loss", "rate", "behind the best, 95 %", "adjusted p"]
    rows = []
    order = np.argsort(rankings["Muon"].tuned_losses, kind="stable")
    for c in order:
        row = [network.schemes[c]]
        for name, each in rankings.items():
            exponent = dict(network.rates)[name][each.best_rates[c]]
            edge = " (end of grid)" if each.at_edge[c] else ""
            lost = f", {each.worthless[c]} worthless" if each.worthless[c] else ""
            one = each.behind[c]
            row += [f"{each.tuned_losses[c]:.3f}{lost}", f"2^{exponent}{edge}"]
            row += ["best", ""] if c == each.best else ["", ""]
            if one is not None:
                row[-2:] = [f"{one.low:.3f} to {one.high:.3f}", f"{one.adjusted_p:.3f}"]
        rows.append(row)
    caption = (
        f"{network.name}: mean loss at the best rate, in nats; worthless: seeds that diverged or "
        "ended above a uniform guess, counted as that"
    )
    return caption, head, rows


def _spreads(network: Network, rankings: dict[str, Ranking]) -> Table:
    head = ["optimiser", "best scheme", "its loss", *_SPREADS, "distinguishable from the best"]
    head += ["behind by more than the bound", "tau of halves"]
    rows = [
        [
            name,
            network.schemes[each.best],
            f"{each.tuned_losses[each.best]:.3f}",
            *(_shown(each.spread(which)) for which in (0, 1)),
            str(len(each.worse)),
            str(len(each.mattering)),
            _number(each.reliability),
        ]
        for name, each in rankings.items()
    ]
    return f"{network.name}: spread between schemes, in nats, with 95 % intervals", head, rows


def _taus(settings: Settings, network: Network, agreements: Sequence[Agreement]) -> Table:
    head = ("optimisers", "Kendall's tau", "between halves", "within, of halves", "the rankings")
    rows = [
        [
            f"{pair.one.optimiser}, {pair.other.optimiser}",
            _shown(pair.tau),
            _number(pair.of_halves),
            _number(pair.reliability),
            pair.verdict(settings.reliability),
        ]
        for pair in agreements
    ]
    caption = (
        f"{network.name}: agreement of rankings; between halves: one half of the seeds under the "
        "one, the other under the other optimiser; within: both under one, the lower of the two"
    )
    return caption, head, rows


def _behind(ranking: Ranking, c: int) -> str:
    one = ranking.behind[c]
    assert one is not None
    return f"{ranking.network.schemes[c]} by {one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


def _best(ranking: Ranking) -> str:
    return f"{ranking.network.schemes[ranking.best]}, {ranking.tuned_losses[ranking.best]:.3f} nats"


def _edges(rankings: dict[str, Ranking]) -> str:
    words = []
    for name, each in rankings.items():
        exponents = rates_of(each.network, name)
        found = [
            f"{scheme} ({exponents[rate]:.3g})"
            for scheme, rate, at_edge in zip(
                each.network.schemes, each.best_rates, each.at_edge, strict=True
            )
            if at_edge
        ]
        if found:
            words.append(f"under {name} {', '.join(found)}")
    return "; ".join(words)


def _mean(found: Estimate, seeds: int) -> Mean:
    return Mean(found.value, seeds, found.error if math.isfinite(found.error) else None)


def _rank(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _shown(found: Estimate) -> str:
    return f"{_number(found.value)} ({_interval(found)})"


def _interval(found: Estimate) -> str:
    if not math.isfinite(found.low):
        return "no interval"
    return f"{_number(found.low)} to {_number(found.high)}"


def _number(value: float) -> str:
    # Minus zero is zero.
    return f"{round(value, 3) + 0.0:.3g}" if math.isfinite(value) else "not available"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
