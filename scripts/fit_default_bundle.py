#!/usr/bin/env python3
"""Fit and evaluate the bundle that ships with penchant.

Usage: scripts/fit_default_bundle.py DATA_FOLDER [--out FOLDER] [--repetitions N]

DATA_FOLDER holds a folder for each of the data sets below, with a file data.jsonl.gz. The shipped weights are
fitted to all of the data. The figures in the manifest come from the same recipe, fitted to the train parts of the cold
split and evaluated on unseen users and texts.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from penchant.models.bundle import DEFAULT_BUNDLE, Bundle, EncoderCard, Manifest, round_trip
from penchant.models.checkpoint import NO_CHECKPOINT, Checkpoint, compute_fingerprint
from penchant.models.checkpoint import Progress as ProgressCall
from penchant.models.encoding.extract import FeatureTable, extract_features
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.encoding.loading import load_encoder
from penchant.models.evaluation.few_shot import Predictions, Vectors, adapt, predict
from penchant.models.evaluation.report import curve
from penchant.models.evaluation.split import split
from penchant.models.fitting.em import FitOptions
from penchant.models.fitting.tuning import TunedModel, fit_reward
from penchant.models.judgements.files import read, with_scales
from penchant.models.judgements.judgement import Judgement
from penchant.models.training import inspect_reward_model, summarise_tuning

POLIS_LINKS = (
    "2014-seattle-15-per-hour",
    "2018-kentucky",
    "2017-brexit-consensus",
    "2016-canadian-electoral-reform",
    "2015-football-concussions",
    "2022-london-youth-policing",
    "2017-scoop-hivemind-affordable-housing",
    "2019-scoop-hivemind-biodiversity",
    "2017-scoop-hivemind-freshwater",
    "2018-scoop-hivemind-taxes",
    "2017-scoop-hivemind-ubi",
    "2021-san-juan-island",
)


@dataclass(frozen=True)
class Source:
    """A data set that may ship, with its licence and attribution.

    Attributes:
        name: Name of its folder.
        scale: Lowest and highest rating. None if it has no ratings.
        licence: Licence.
        attribution: Attribution in the words that the licence requires.
        changes: Changes made to the data.
        is_prompted: Whether its contexts are prompts that the texts answer. Otherwise they are instructions to raters
            or topics of a discussion, and are left out.
    """

    name: str
    scale: tuple[float, float] | None
    licence: str
    attribution: str
    changes: str = "none"
    is_prompted: bool = False


SOURCES = (
    Source(
        "polis_opendata_en",
        (-1, 1),
        "CC BY 4.0",
        "Data was gathered using the Polis software (compdemocracy.org/polis) and is sub-licensed under CC BY 4.0 with "
        "Attribution to The Computational Democracy Project. The data and more information about how the data was "
        "collected can be found at the following link(s): "
        + " ".join(f"https://compdemocracy.org/case-studies/{link}" for link in POLIS_LINKS),
        "authors' own automatic votes left out",
    ),
    Source(
        "ukp_convarg1",
        None,
        "CC BY 4.0",
        "Ivan Habernal and Iryna Gurevych, Which argument is more convincing? Analyzing and predicting convincingness "
        "of Web arguments using bidirectional LSTM, ACL 2016 (UKPLab/acl2016-convincing-arguments)",
        is_prompted=True,
    ),
    Source(
        "crowdrag25_pairwise",
        None,
        "CC BY 4.0",
        "Lukas Gienapp, Tim Hagen, Maik Fröbe, Matthias Hagen, Benno Stein, Martin Potthast, Harrisen Scells, The "
        "Viability of Crowdsourcing for RAG Evaluation, SIGIR 2025 (webis-de/sigir25-rag-crowdsourcing)",
        "citation markers, which the raters did not see, deleted",
        is_prompted=True,
    ),
    Source(
        "expertqa_edits",
        (0, 2),
        "MIT (Copyright (c) 2023 Chaitanya Malaviya)",
        "Chaitanya Malaviya, Subin Lee, Sihao Chen, Elizabeth Sieber, Mark Yatskar, Dan Roth, ExpertQA: Expert-Curated "
        "Questions and Attributed Answers, NAACL 2024 (chaitanyamalaviya/ExpertQA)",
        "citation markers deleted",
        is_prompted=True,
    ),
)
MAX_WINDOWS = 8
RANKS = (0, 2)
MISMATCHED_WEIGHTS = {0: 10.0}
"""Weight of pairs of an answer to a prompt and an answer to another prompt, relative to the judgements of a source, by
kind of prompt. It is declared for prompts of one line, such as the questions of searches, whose judges are hardly ever
shown an answer to another question. For longer prompts, it is as large as the judgements allow."""

TASTE = ("answer-style*0.014+content-32*0.1+relevance*0.002", 1.0)
"""Taste families with their variances. They are declared instead of fitted, because short statements and arguments
cannot show that people differ in how an answer should be written. With these, thirty judgements about style move the top
three of a ranking by about half a standard deviation of that style, and the answers stay on top. The manifest shows what
this costs on the data."""
CITATION = re.compile(r"\s*\[\d+(,\s*\d+)*\]")


def load(source: Source, folder: Path) -> list[Judgement]:
    """Load the judgements of a data set, with its name in front of user names."""
    path = folder / source.name / "data.jsonl.gz"
    rows = []
    for j in read(path, source=source.name):
        texts = j.texts
        if source.name in {"crowdrag25_pairwise", "expertqa_edits"}:
            texts = tuple(CITATION.sub("", text) for text in texts)
        if len(set(texts)) < len(texts):  # an edit of nothing but markers
            continue
        context = j.context if source.is_prompted else ""
        scale = source.scale or j.scale
        user = f"{source.name}/{j.user}"
        rows.append(replace(j, user=user, context=context, texts=texts, scale=scale))
    return with_scales(rows)


def describe_source(source: Source, folder: Path, rows: Sequence[Judgement]) -> dict[str, Any]:
    """Return the manifest entry of a data set."""
    content = (folder / source.name / "data.jsonl.gz").read_bytes()
    return {
        "name": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "changes": source.changes,
        "sha256": hashlib.sha256(content).hexdigest(),
        "judgements": sum(not j.own for j in rows),
        "users": len({j.user for j in rows if not j.own}),
    }


def load_features(
    path: Path | None, judgements: Sequence[Judgement], extractor: FeatureExtractor, progress: ProgressCall
) -> FeatureTable:
    """Return the features of all texts, from the folder of an earlier run if there is one."""
    texts = sorted({(j.context, text) for j in judgements for text in j.texts})
    identity = compute_fingerprint(extractor=extractor.identity, texts=texts)
    checkpoint = Checkpoint(path, identity) if path else NO_CHECKPOINT
    return extract_features(judgements, extractor, progress, checkpoint)


def measure(
    sets: dict[str, list[Judgement]], vectors: Vectors, repetitions: int, bars: Progress
) -> dict[str, Any]:
    """Fit by the recipe to the train parts of all data sets and evaluate on the unseen users and texts of each."""
    found: dict[str, list[Predictions]] = {name: [] for name in sets}
    for repetition in range(repetitions):
        parts = {name: split(rows, "cold", repetition) for name, rows in sets.items()}
        tuned = fit_by_recipe(
            [j for part in parts.values() for j in part.train], vectors, bars, f"repetition {repetition}"
        )
        reward = round_trip(tuned.reward)
        for name, part in parts.items():
            if part.test:
                needed_texts = {
                    (p.context, t) for pairs in part.test.values() for p in pairs for t in (p.better, p.worse)
                }
                needed_texts |= {
                    (j.context, t) for rows in part.support.values() for j in rows for t in j.texts
                }
                needed = {item: vectors[item] for item in sorted(needed_texts)}
                found[name].append(predict(reward, adapt(reward, needed, part.support, part.test)))
    return {
        "split": "cold: users and texts unseen, the model without item memory",
        "repetitions": repetitions,
        "sets": {
            name: {
                "unseen_users": sum(int(p.users.max()) + 1 for p in predictions),
                "curve": [asdict(point) for point in curve(predictions)],
            }
            for name, predictions in found.items()
            if predictions
        },
    }


def fit_by_recipe(judgements: list[Judgement], vectors: Vectors, bars: Progress, label: str) -> TunedModel:
    """Fit as for the default bundle: for new texts, and without an item memory."""
    task = bars.add_task(label, total=None)
    tuned = fit_reward(
        judgements,
        vectors,
        mode="cold",
        with_memory=False,
        declared=TASTE,
        options=FitOptions(mismatched_weights=MISMATCHED_WEIGHTS),
        ranks=RANKS,
        progress=lambda stage, done, total: bars.update(
            task, description=f"{label}: {stage}", completed=done, total=total
        ),
    )
    bars.remove_task(task)
    print(label, tuned.choice, file=sys.stderr)
    return tuned


def format_table(metrics: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| set | unseen users | k = 0 | 3 | 10 | 30 | 100 | measurably worse than k = 0 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in metrics["sets"].items():
        cells = [f"{p['accuracy']:.3f} / {p['log_loss']:.3f}" for p in figures["curve"]]
        harmed = max(p["harmed"] for p in figures["curve"])
        lines.append(f"| {name} | {figures['unseen_users']} | {' | '.join(cells)} | {harmed:.1%} at most |")
    lines += ["", f"Mean of {metrics['repetitions']} repetitions; users counted over all of them."]
    return "\n".join(lines)


def write_card(path: Path, figures: str) -> None:
    """Write the figures between the markers of the model card."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split("<!-- figures -->", 1)
    after = rest.split("<!-- /figures -->", 1)[1]
    path.write_text(f"{before}<!-- figures -->\n{figures}\n<!-- /figures -->{after}", encoding="utf-8")


def main() -> None:
    """Fit, evaluate and write the bundle and its model card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--card", type=Path, default=Path(__file__).parents[1] / "docs" / "model-card.md")
    parser.add_argument("--vectors", type=Path, help="folder that keeps the texts' features between runs")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    extractor = FeatureExtractor(load_encoder(max_windows=MAX_WINDOWS))
    sets = {source.name: load(source, arguments.data) for source in SOURCES}
    everything = [j for rows in sets.values() for j in rows]
    with Progress() as bars:
        task = bars.add_task("encode", total=None)
        vectors = load_features(
            arguments.vectors,
            everything,
            extractor,
            lambda _, done, total: bars.update(task, completed=done, total=total),
        )
        kept = [j for j in everything if not j.own]
        tuned = fit_by_recipe(kept, vectors, bars, "all judgements")
        data = tuple(describe_source(source, arguments.data, sets[source.name]) for source in SOURCES)
        about = {
            "fit": summarise_tuning(tuned),
            "inspection": inspect_reward_model(tuned.reward, kept, vectors),
        }
        manifest = Manifest("default", EncoderCard.from_extractor(extractor), data, about)
        bundle = Bundle(tuned.reward, manifest)
        bundle.save(arguments.out)  # usable already: the evaluation takes longer than the fit
        evaluation = measure(sets, vectors, arguments.repetitions, bars)
    bundle = Bundle(tuned.reward, replace(manifest, metrics={**manifest.metrics, "evaluation": evaluation}))
    bundle.save(arguments.out)
    write_card(arguments.card, format_table(evaluation))
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(json.dumps({"version": bundle.version, "bytes": size}))


if __name__ == "__main__":
    main()
