"""A whole run: a server or a model, the parts, the report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.relevance import report
from benchmarks.relevance.features import load_embeddings, load_extractor, load_vectors
from benchmarks.relevance.plan import Plan
from benchmarks.relevance.questions import QuestionSet
from benchmarks.relevance.rankers import ModelRanker, ServedRanker
from benchmarks.relevance.rankings import measure_rankings
from benchmarks.relevance.report import Results
from benchmarks.relevance.study import Study
from benchmarks.relevance.swapped_prompts import measure_swapped_prompts
from benchmarks.relevance.swapped_queries import measure_swapped_queries
from benchmarks.relevance.timing import measure_time
from benchmarks.relevance.users import measure_curve, measure_users
from benchmarks.serving.servers import ours
from penchant.models.bundle import Bundle
from penchant.models.encoding.features import FeatureExtractor

PARTS: Final = ("rankings", "users", "curve", "time", "queries", "prompts")
SERVER_PARTS: Final = ("curve", "time")
"""Parts that only a server can answer."""


@dataclass(frozen=True)
class Place:
    """The paths that a run reads and writes.

    Attributes:
        data: Folder of the sets with prompts.
        bundle: Folder of the bundle.
        out: Path of the JSON and the Markdown file, without extension.
        cache: Folder of feature vectors and embeddings.
    """

    data: Path
    bundle: Path
    out: Path
    cache: Path


class Model:
    """A bundle and its encoder, which is loaded if a part needs it.

    Args:
        place: Paths of the run.

    Attributes:
        bundle: The bundle.
    """

    def __init__(self, place: Place) -> None:
        self.bundle = Bundle.load(place.bundle)
        self._cache = place.cache

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Extractor that the bundle was fitted with."""
        return load_extractor(self.bundle)

    def vectors(self, items: Sequence[tuple[str, str]]) -> dict[tuple[str, str], NDArray[np.float16]]:
        """Return the feature vector of each (prompt, text)."""
        return load_vectors(items, self.extractor, self._cache)

    def embeddings(self, sets: Sequence[QuestionSet]) -> dict[str, NDArray[np.float32]]:
        """Return the embedding of each question and candidate."""
        texts = [text for s in sets for text in (*s.texts, *(q.text for q in s.questions))]
        return load_embeddings(list(dict.fromkeys(texts)), self.extractor.encoder, self._cache)


def measure(
    sets: Sequence[QuestionSet], parts: Sequence[str], place: Place, *, in_process: bool = False
) -> Results:
    """Measure the parts and write the report after each of them.

    Args:
        sets: The question sets.
        parts: Names of the parts.
        place: Paths of the run.
        in_process: Whether the model in this process ranks, in place of a server.

    Raises:
        ValueError: If a part is unknown, or needs a server and none is used.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"Unknown part: {part}. Choose from {', '.join(PARTS)}.")
        if in_process and part in SERVER_PARTS:
            raise ValueError(f"The part {part} needs a server; leave out --in-process.")
    model = Model(place)
    counts = {questions.name: len(questions.questions) for questions in sets}
    results = Results(report.about(model.bundle.version, counts, in_process=in_process))
    with _opened(Plan(sets), parts, place, model, in_process=in_process) as study:
        for part in parts:
            started = time.perf_counter()
            _measure_part(part, study, model, place, results)
            report.write(results, place.out)
            print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    return results


def _measure_part(part: str, study: Study, model: Model, place: Place, results: Results) -> None:
    match part:
        case "rankings":
            results.rankings = measure_rankings(study, model.embeddings(study.plan.sets))
        case "users":
            results.left_out = study.plan.left_out
            results.users = measure_users(study)
        case "curve":
            results.curve = measure_curve(study)
        case "time":
            if isinstance(study.ranker, ServedRanker):
                results.time = [measure_time(study.ranker, questions) for questions in study.plan.sets]
        case "queries":
            results.queries = measure_swapped_queries(study, model.embeddings(study.plan.sets))
        case "prompts":
            results.prompts = measure_swapped_prompts(model.bundle.reward, model.vectors, place.data)


@contextmanager
def _opened(
    plan: Plan, parts: Sequence[str], place: Place, model: Model, *, in_process: bool
) -> Iterator[Study]:
    """Start a server, or describe the items that the parts rank in this process."""
    if not in_process:
        with ours(bundle=str(place.bundle.resolve()), log_level="WARNING") as server:
            ranker = ServedRanker(server.port)
            with closing(ranker):
                yield Study(plan, ranker)
        return
    yield Study(plan, ModelRanker(model.bundle.reward, model.vectors(plan.items(parts))))
