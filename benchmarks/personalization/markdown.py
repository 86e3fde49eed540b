"""The figures of a run as Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.personalization import robustness, targets
from benchmarks.personalization.systems import PENCHANT, TITLES
from benchmarks.personalization.task import SHOTS

Entry = Mapping[str, Any]


def render(found: Entry, pictures: Mapping[str, str]) -> str:
    """Return all sections for which the run has figures.

    Args:
        found: Figures, as in the JSON file.
        pictures: Path of each set's learning curves, relative to the Markdown file.
    """
    lines = ["# Personalization benchmark", "", *_about(found["about"])]
    places = [place for place in found.get("curves", []) if "systems" in place]
    if "curves" in found:
        lines += ["## Learning curves", "", *_reading()]
        shown: set[str] = set()
        for place in found["curves"]:
            if place["set"] in pictures and place["set"] not in shown:
                lines += [f"![{place['set']}]({pictures[place['set']]})", ""]
                shown.add(place["set"])
            lines += _curve(place)
    ours = [place for place in places if PENCHANT in place["systems"]]
    if ours:
        lines += [*_labels(ours), *_against(ours), *_floor(ours), *_goals(ours), *_contexts(ours)]
    for name, section in (("probes", _probes), ("probes-reversed", _probes), ("robustness", _robustness)):
        if name in found:
            lines += section(found[name])
    if "control" in found:
        lines += _control(found["control"])
    if "speed" in found:
        lines += _speed(found["speed"])
    return "\n".join(lines).rstrip() + "\n"


def _about(about: Entry) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    yield "Written by `python -m benchmarks.personalization`. The JSON file beside this one holds all intervals."
    yield ""
    yield f"- Commit {about['commit']}; {about['processor']}, {about['cores']} cores, {about['system']}; {versions}."
    yield f"- Encoder {about['encoder']}, features {about['features']}."
    yield f"- Split: `penchant.models.evaluation.split`, repetitions 0 to {about['repetitions'] - 1}."
    yield f"- Bootstrap: {about['bootstrap']['draws']} draws, seed {about['bootstrap']['seed']}."
    yield ""
    yield from _table(["set", "SHA-256 of data.jsonl.gz"], about["sets"].items())


def _reading() -> Iterator[str]:
    yield "The tables show accuracy (mean over users) / log-loss (mean over pairs) on the test comparisons of users that"
    yield "the model has never seen, after k of their own judgements, as means over the repetitions. In the split"
    yield "`cold`, nobody has judged the texts before; in `warm`, texts recur. All peers get the same features as"
    yield "penchant and are tuned on training users, temperature included."
    yield ""


def _curve(place: Entry) -> Iterator[str]:
    yield f"### {place['set']}, {place['split']}"
    yield ""
    if "nobody" in place:
        yield from [place["nobody"], ""]
        return
    yield f"{place['users']} users, {place['pairs']} pairs, {place['repetitions']} repetitions."
    yield ""
    rows = [
        [
            TITLES[name] + _fewer(system, place),
            *(f"{p['accuracy'][0]:.3f} / {p['log_loss'][0]:.3f}" for p in system["curve"]),
        ]
        for name, system in place["systems"].items()
    ]
    if PENCHANT in place["systems"]:
        ours = place["systems"][PENCHANT]["curve"]
        rows += [
            ["95 % of accuracy", *(f"{p['accuracy'][1]:.3f} – {p['accuracy'][2]:.3f}" for p in ours)],
            ["95 % of log-loss", *(f"{p['log_loss'][1]:.3f} – {p['log_loss'][2]:.3f}" for p in ours)],
            ["calibration error", *(f"{p['calibration_error']:.3f}" for p in ours)],
            ["calibration error of chance", *(f"{p['calibration_noise']:.3f}" for p in ours)],
            ["users worse than k = 0, pairs permuted", *(f"{p['harmed']:.1%}" for p in ours)],
            [
                "users worse / better, texts as clusters",
                *(f"{p['worse']:.1%} / {p['better']:.1%}" for p in ours),
            ],
        ]
    yield from _table(["", *(f"k = {k}" for k in SHOTS)], rows)


def _fewer(system: Entry, place: Entry) -> str:
    """Return a note for a system that did not run all repetitions. It is compared with penchant on those it ran."""
    ran: int = system["repetitions"]
    if ran == place["repetitions"]:
        return ""
    return " (repetition 0)" if ran == 1 else f" (repetitions 0 to {ran - 1})"


def _labels(places: Sequence[Entry]) -> Iterator[str]:
    yield "## Gain from labels"
    yield ""
    yield "Change against k = 0, with 95 % intervals, paired by user and text: user-mean log-loss; accuracy in points."
    yield ""
    for name, scale, digits in (("user_log_loss", 1.0, 4), ("accuracy", 100.0, 1)):
        rows = [
            [_name(place), *(_interval(gain[name], scale, digits) for gain in place["with_labels"])]
            for place in places
        ]
        yield from _table([name.replace("_", " "), *(f"k = {k}" for k in SHOTS[1:])], rows)


def _against(places: Sequence[Entry]) -> Iterator[str]:
    peers = list(dict.fromkeys(name for place in places for name in place["against"]))
    if not peers:
        return
    yield "## Comparison with the peers"
    yield ""
    yield "Accuracy of penchant minus accuracy of the peer, in points, paired, with 95 % intervals."
    yield ""
    for peer in peers:
        rows = [
            [_name(place), *(_interval(point["accuracy"], 100, 1) for point in place["against"][peer])]
            for place in places
            if peer in place["against"]
        ]
        yield from _table([TITLES[peer], *(f"k = {k}" for k in SHOTS)], rows)


def _floor(places: Sequence[Entry]) -> Iterator[str]:
    cells = [(place, cell) for place in places for cell in targets.floor(place)]
    if not cells:
        return
    reached = sum(cell["reached"] for _, cell in cells)
    yield "## The floor"
    yield ""
    yield f"Every release has to reach the figures of the prototype. This run reaches {reached} of {len(cells)} cells."
    yield ""
    rows = [
        [
            _name(place),
            str(cell["k"]),
            f"{cell['floor'][0]:.3f} / {cell['floor'][1]:.3f}",
            f"{cell['ours'][0]:.3f} / {cell['ours'][1]:.3f}",
            _verdict(cell["reached"]),
        ]
        for place, cell in cells
    ]
    yield from _table(["", "k", "floor", "penchant", ""], rows)


def _goals(places: Sequence[Entry]) -> Iterator[str]:
    yield "## Goals"
    yield ""
    yield "- *No worse* and *never falls* mean not beyond the 95 % interval of the paired difference."
    yield "- *Of chance* is the calibration error that nineteen of twenty perfectly calibrated models stay below on as"
    yield "  many pairs."
    yield "- *Pairs permuted* treats a user's pairs as independent, although they share texts. If two models differ only"
    yield "  by surprises about single texts, it calls one to three users in ten worse; *texts as clusters* calls one to"
    yield "  three in a hundred worse (`benchmarks/personalization/harm.py`)."
    yield ""
    found = {_name(place): targets.goals(place) for place in places}
    names = list(dict.fromkeys(name for goals in found.values() for name in goals))
    rows = [
        [place, *(_verdict(goals[n]) if n in goals else "" for n in names)] for place, goals in found.items()
    ]
    yield from _table(["", *names], rows)


def _contexts(places: Sequence[Entry]) -> Iterator[str]:
    for place in places:
        if not place["contexts"]:
            continue
        yield f"## {_name(place)}, context by context"
        yield ""
        yield "Mean accuracy over the users with test pairs in the context, with 95 % intervals."
        yield ""
        rows = []
        for row in place["contexts"]:
            title = row["context"].splitlines()[0][:60]
            for system, points in row["systems"].items():
                rows.append(
                    [
                        title,
                        str(row["users"]),
                        TITLES[system],
                        *(_interval(p["accuracy"], 1, 3) for p in points),
                    ]
                )
                title = ""
        yield from _table(["context", "users", "system", *(f"k = {k}" for k in SHOTS)], rows)


def _probes(checks: Sequence[Entry]) -> Iterator[str]:
    yield "## Sanity probes"
    yield ""
    rows = [
        [c["place"], c["probe"], c["claim"], _interval(c["figure"], 1, 3), _verdict(c["passed"])]
        for c in checks
    ]
    yield from _table(["", "probe", "claim", "difference", ""], rows)


def _robustness(effects: Sequence[Entry]) -> Iterator[str]:
    yield "## Wrong and hostile train labels"
    yield ""
    yield "Change of other users' accuracy against the clean fit, in points, paired, with 95 % intervals."
    yield ""
    rows = [
        [e["place"], robustness.TITLES[e["variant"]], str(e["k"]), _interval(e["change"], 100, 2)]
        for e in effects
    ]
    yield from _table(["", "", "k", "change"], rows)


def _control(systems: Sequence[Entry]) -> Iterator[str]:
    yield "## Semi-synthetic control"
    yield ""
    yield "Users are drawn from Dirichlet(0.1) over ten attribute rewards. Of eight real texts, they prefer the best to"
    yield "the worst. The figures are accuracy on new texts."
    yield ""
    shots = list(systems[0]["unseen"])
    rows = [
        [TITLES[s["system"]], _interval(s["seen"], 1, 3), *(_interval(s["unseen"][k], 1, 3) for k in shots)]
        for s in systems
    ]
    yield from _table(["", "seen, 45 pairs", *(f"unseen, {k} pairs" for k in shots)], rows)


def _speed(places: Sequence[Entry]) -> Iterator[str]:
    yield "## Speed of fitting"
    yield ""
    for place in places:
        yield (
            f"{place['set']}, {place['split']}: {place['judgements']} judgements of {place['users']} users, for LoRe "
            f"{place['pairs']} pairs; {place['threads']} threads; seconds of every round, alternating."
        )
        yield ""
        yield from _table(
            ["", "seconds"], [[name, ", ".join(map(str, s))] for name, s in place["seconds"].items()]
        )
        yield from _table(["ratio of medians", ""], place["ratios"].items())


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
    yield ""


def _name(place: Entry) -> str:
    return f"{place['set']}, {place['split']}"


def _interval(figure: Sequence[float], scale: float, digits: int) -> str:
    value, low, high = (round(scale * number, digits) + 0.0 for number in figure)  # + 0.0: no negative zero
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _verdict(good: bool) -> str:
    return "yes" if good else "**no**"
