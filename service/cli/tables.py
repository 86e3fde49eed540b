"""Tables that describe a bundle: what it was fitted on, how its model was chosen, and what its tastes mean."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from penchant.service.cli.terminal import out

if TYPE_CHECKING:
    from penchant.models.bundle import Bundle

MOST_ATTRIBUTES: Final = 4
MOST_TASTES: Final = 4
"""Columns of tastes in the table of archetypes."""


def print_manifest(bundle: "Bundle") -> None:
    """Print a bundle's manifest and the models that were tried."""
    manifest, reward = bundle.manifest, bundle.reward
    table = Table(show_header=False, title=f"{manifest.name} {bundle.version}", title_justify="left")
    table.add_row(
        "encoder",
        f"{manifest.encoder.name}, {manifest.encoder.pooling} pooling, {manifest.encoder.max_tokens} tokens"
        + (f", up to {manifest.encoder.max_windows} windows" if manifest.encoder.max_windows > 1 else ""),
    )
    alone = "the text, and its match with the prompt" if manifest.encoder.reads_prompts else "the text alone"
    table.add_row("reads", "prompt and text together" if manifest.encoder.joint else alone)
    for entry in manifest.data:
        table.add_row("data", _lines(entry))
    table.add_row("taste", f"{reward.rank} directions learned, {reward.q} coordinates a user")
    archetypes = len(reward.population.weights)
    table.add_row("users", "one kind" if archetypes == 1 else f"a mixture of {archetypes} archetypes")
    table.add_row("remembers", f"{len(reward.memory.rows):,} texts")
    metrics = dict(manifest.metrics)
    fit = metrics.pop("fit", None)
    metrics.pop("inspection", None)
    for name, figures in metrics.items():
        table.add_row(name, _lines(figures))
    out.print(table)
    if fit is not None:
        _print_trials(fit)


def _print_trials(fit: Mapping[str, Any]) -> None:
    """Print the models that were tried on held-out users, with the chosen one marked."""
    if not fit["trials"]:
        out.print(
            f"Too few held-out users to choose a model ({fit['held_out_users']}), so the simplest one was taken."
        )
        return
    table = Table(
        title=f"Tried on {fit['held_out_users']} held-out users",
        title_justify="left",
        caption="mean log-loss after 3 to 100 judgements, and its gain over the first model ± standard error",
        caption_justify="left",
    )
    choices = [trial["choice"] for trial in fit["trials"]]
    for name in choices[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("log-loss", "gain", ""):
        table.add_column(name, justify="right")
    for trial in fit["trials"]:
        table.add_row(
            *(_inline(value) for value in trial["choice"].values()),
            f"{trial['log_loss']:.4f}",
            f"{trial['gain']:.4f} ± {trial['gain_error']:.4f}",
            "chosen" if trial["choice"] == fit["choice"] else "",
        )
    out.print("", table)


def print_inspection(inspection: Mapping[str, Any]) -> None:
    """Print what decides comparisons, taste by taste, and the archetypes."""
    table = Table(
        title=f"What decides between two texts, by share of variance (measured on {inspection['texts']:,} texts)",
        title_justify="left",
        caption="In logits, for a user one standard deviation along a taste: how much texts differ (named: the share "
        "that attributes explain), and what one standard deviation more of an attribute adds.",
        caption_justify="left",
        expand=True,
    )
    for column in ("", "share", "± over texts", "named"):
        table.add_column(column, justify="left" if column == "" else "right")
    table.add_column("liked", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, taste in [
        ("everybody", inspection["consensus"]),
        *((f"taste {n}", t) for n, t in enumerate(inspection["tastes"], start=1)),
    ]:
        table.add_row(
            name,
            f"{taste['share']:.1%}",
            f"{taste['deviation']:.2f}",
            f"{taste['named_share']:.0%}",
            "\n".join((*_meanings(taste["attributes"]), *_examples(taste))),
        )
    if inspection["smaller"]:
        table.add_row(
            f"{inspection['smaller']} more", f"{inspection['smaller_share']:.1%}", "", "", "smaller tastes"
        )
    table.add_row(
        "a text's own", f"{inspection['unexplained']:.1%}", "", "", "what is unknown about single texts"
    )
    table.add_row(
        "chance", f"{inspection['chance']:.1%}", "", "", "what the same user might judge differently"
    )
    out.print("", table)
    if len(inspection["archetypes"]) > 1:
        _print_archetypes(inspection["archetypes"])


def _print_archetypes(archetypes: list[Mapping[str, Any]]) -> None:
    table = Table(
        title="Archetypes",
        title_justify="left",
        caption="position on each taste, in standard deviations of all users",
        caption_justify="left",
    )
    tastes = min(len(archetypes[0]["tastes"]), MOST_TASTES)
    for column in ("", "users", *(f"taste {n + 1}" for n in range(tastes)), "against the mean user"):
        table.add_column(column, justify="left" if column == "against the mean user" else "right")
    for number, archetype in enumerate(archetypes, start=1):
        places = zip(archetype["tastes"][:tastes], archetype["spread"][:tastes], strict=True)
        table.add_row(
            str(number),
            f"{archetype['weight']:.0%}",
            *(f"{mean:+.1f} ± {spread:.1f}" for mean, spread in places),
            "\n".join(_meanings(archetype["attributes"])),
        )
    out.print("", table)


def _meanings(attributes: list[Mapping[str, Any]]) -> Iterator[str]:
    for attribute in attributes[:MOST_ATTRIBUTES]:
        yield f"{attribute['label']} {abs(attribute['slope']):.2f} ± {attribute['slope_std']:.2f}"
    if len(attributes) > MOST_ATTRIBUTES:
        yield f"and {len(attributes) - MOST_ATTRIBUTES} more attributes"


def _examples(taste: Mapping[str, Any]) -> Iterator[str]:
    for sign, end in (("+", "highest"), ("−", "lowest")):
        for text in taste[end]:
            yield f"{sign} {' '.join(text.split())}"


def _lines(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_inline(entry)}" for key, entry in value.items())
    return _inline(value)


def _inline(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
