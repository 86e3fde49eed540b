"""Whether taste depends on the kind of prompt: `python -m benchmarks.gates --data FOLDER`.

For every set whose judgements have several prompts, a model is chosen on held-out users as `penchant fit` does. Then
each gate is tried beside it, as `penchant fit --gate auto` does. The result is how much a gate reduces the log-loss of
the held-out users, paired by user and fold.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.machine import machine
from benchmarks.personalization.data import Source, sources
from benchmarks.personalization.features import encode
from penchant.models.checkpoint import NO_CHECKPOINT, ignore_progress
from penchant.models.encoding.extract import FeatureTable
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.models.evaluation.split import Mode
from penchant.models.fitting.em import FitOptions
from penchant.models.fitting.held_out import HeldOutUsers
from penchant.models.fitting.tuning import RANKS, ChoiceSearch
from penchant.models.judgements.judgement import Judgement

SPLITS: Final[tuple[Mode, ...]] = ("cold", "warm")
"""The first split in which enough users have enough judgements is used."""

FEWEST_USERS: Final = 10
"""Smallest number of held-out users. It is less than a fit needs to choose anything, because this is a measurement."""


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    names: Annotated[list[str] | None, typer.Option("--set", help="Set to measure. All by default.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of encoded texts.")] = Path("build/gates"),
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/gates"
    ),
) -> None:
    """Measure what a gate gains on held-out users, and write JSON and Markdown."""
    extractor = FeatureExtractor(load_encoder(), reads_prompt_embedding=True)
    results: dict[str, Any] = {"about": machine(("torch", "numpy")), "sets": {}}
    for source in sources(data, names, extractor.identity, cache):
        results["sets"][source.name] = measure_source(source, extractor)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        out.with_suffix(".md").write_text(format_markdown(results), "utf-8")
    print(out.with_suffix(".md").read_text("utf-8"))


def measure_source(source: Source, extractor: FeatureExtractor) -> dict[str, Any]:
    """Return the figures of a set, or what keeps it from being measured."""
    judgements = [j for j in source.judgements() if not j.own]
    if count_varied(judgements) < FEWEST_USERS:
        return {"skipped": "hardly any user judged texts of several prompts"}
    encode(source, lambda: extractor)
    with np.load(source.features) as arrays:
        stored = {
            **arrays,
            "reads": np.array([False, True, True]),
        }  # the cache does not depend on what is read
        vectors = FeatureTable.from_arrays(
            list(dict.fromkeys((j.context, t) for j in source.judgements() for t in j.texts)), stored
        )
    return measure(judgements, vectors)


def count_varied(judgements: Sequence[Judgement]) -> int:
    """Return the number of users who judged texts of at least two prompts."""
    prompts: dict[str, set[str]] = {}
    for judgement in judgements:
        if judgement.context.strip():
            prompts.setdefault(judgement.user, set()).add(judgement.context)
    return sum(len(contexts) > 1 for contexts in prompts.values())


def measure(
    judgements: Sequence[Judgement],
    vectors: FeatureTable,
    *,
    ranks: Sequence[int] | None = None,
    options: FitOptions | None = None,
) -> dict[str, Any]:
    """Return the gain of every gate over the same model without one.

    Args:
        judgements: Judgements of the set.
        vectors: Features with the embeddings of prompts.
        ranks: Ranks to choose from. `RANKS` by default.
        options: Options of the fits.
    """
    by_mode = {mode: HeldOutUsers(judgements, vectors, mode) for mode in SPLITS}
    mode, held_out = next(
        ((mode, users) for mode, users in by_mode.items() if len(users.users) >= FEWEST_USERS),
        ("warm", by_mode["warm"]),
    )
    if len(held_out.users) < FEWEST_USERS:
        return {"skipped": f"{len(held_out.users)} held-out users are too few"}
    search = ChoiceSearch(held_out, options or FitOptions(), ignore_progress, NO_CHECKPOINT)
    chosen = search.choose(ranks or RANKS, None, "auto")
    first = next(i for i, trial in enumerate(search.trials) if trial.choice.gate)
    bare = {**asdict(search.trials[first].choice), "gate": 0, "gated": "none", "temperature": 0.0}
    ungated = next(
        i for i, trial in enumerate(search.trials) if {**asdict(trial.choice), "temperature": 0.0} == bare
    )
    gates = []
    for trial, losses in zip(search.trials[first:], search.losses[first:], strict=True):
        gain = search.losses[ungated] - losses
        gates.append(
            {
                "gated": trial.choice.gated,
                "gate": trial.choice.gate,
                "gain": float(gain.mean()),
                "error": float(gain.std(ddof=1) / len(gain) ** 0.5),
            }
        )
    return {
        "split": mode,
        "users": len(held_out.users),
        "prompts": len({j.context for j in judgements if j.context.strip()}),
        "ungated": asdict(search.trials[ungated].choice),
        "log_loss": search.trials[ungated].log_loss,
        "gates": gates,
        "chosen": chosen.gate,
    }


def format_markdown(results: dict[str, Any]) -> str:
    """Return the table of the results."""
    lines = [
        "| set | split | held-out users | prompts | gated | gate values | log-loss without | gain | chosen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["sets"].items():
        if "skipped" in found:
            lines.append(f"| {name} | | | | | | | {found['skipped']} | |")
            continue
        best = max(found["gates"], key=lambda gate: gate["gain"])
        for gate in found["gates"]:
            chosen = "yes" if found["chosen"] and gate is best else ""
            figures = f"{found['log_loss']:.4f} | {gate['gain']:+.4f} ± {gate['error']:.4f}"
            lines.append(
                f"| {name} | {found['split']} | {found['users']} | {found['prompts']} "
                f"| {gate['gated']} | {gate['gate']} | {figures} | {chosen} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
