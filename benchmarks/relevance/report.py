"""The results files of a run: one in JSON and one in Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.relevance.metrics import DRAWS, Figure
from benchmarks.relevance.plan import NONE
from benchmarks.relevance.rankings import OURS, RankingRow
from benchmarks.relevance.styles import CLEAR, JUDGEMENTS
from benchmarks.relevance.swapped_prompts import PromptRow
from benchmarks.relevance.swapped_queries import QueryRow
from benchmarks.relevance.timing import MAX_RATIO, TimeRow
from benchmarks.relevance.users import KEPT, MOVED, CurvePoint, UserRow

LIBRARIES: Final = ("torch", "numpy", "scipy", "transformers")

OF_COSINE: Final = 0.97
"""Smallest share of the cosine's nDCG@10 that the population's rankings must reach."""


@dataclass
class Results:
    """The figures of a run. Parts that did not run are empty.

    Attributes:
        about: Machine, bundle and sets.
        rankings: Part `rankings`.
        users: Part `users`.
        left_out: Why styles were left out, by set and style.
        curve: Part `curve`. None if the server does not have the field `personalization`.
        time: Part `time`.
        queries: Part `queries`.
        prompts: Part `prompts`.
    """

    about: dict[str, Any]
    rankings: Sequence[RankingRow] = ()
    users: Sequence[UserRow] = ()
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    curve: Sequence[CurvePoint] | None = ()
    time: Sequence[TimeRow] = ()
    queries: Sequence[QueryRow] = ()
    prompts: Sequence[PromptRow] = ()

    @property
    def missed(self) -> list[str]:
        """Every goal that was missed and every probe that failed."""
        return [
            *(
                f"{row.questions}: {OURS} reaches {row.of_cosine} of the cosine's nDCG@10, not {OF_COSINE}"
                for row in self.rankings
                if row.system == OURS and row.of_cosine.value < OF_COSINE
            ),
            *(
                f"{row.questions}, {row.variant}, {row.style}: keeps {row.kept} of the nDCG@10, not {KEPT}"
                for row in self.users
                if not row.keeps
            ),
            *(
                f"{row.questions}, {row.variant}, {row.style}: moves the top three by {row.shift}, not {MOVED}"
                for row in self.users
                if not row.moves
            ),
            *(
                f"{row.questions}: a repeated question takes {row.same_ratio} of the time, not {MAX_RATIO}"
                for row in self.time
                if row.same_ratio.value > MAX_RATIO
            ),
            *(
                f"{row.questions}, {row.query}: {row.above_chance} above chance"
                for row in self.queries
                if not row.passed
            ),
            *(
                f"{row.pairs}: the right prompt gains {row.gain}, so wrong prompts are better"
                for row in self.prompts
                if not row.passed
            ),
        ]


def about(bundle: str, sets: Mapping[str, int], *, in_process: bool) -> dict[str, Any]:
    """Return the machine, the bundle and the sets that the figures are based on."""
    return {
        **machine(LIBRARIES),
        "bundle": bundle,
        "questions": dict(sets),
        "measured": "in process" if in_process else "through HTTP",
        "bootstrap_draws": DRAWS,
    }


def write(results: Results, out: Path) -> None:
    """Write the results of a run.

    Args:
        results: The figures.
        out: Path of the JSON and the Markdown file, without extension.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    plain = {**asdict(results), "missed": results.missed}
    out.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(markdown(results), "utf-8")


def markdown(results: Results) -> str:
    """Return the figures as Markdown."""
    about = results.about
    sets = ", ".join(f"{name} ({number} questions)" for name, number in about["questions"].items())
    lines = [
        "# Relevance",
        "",
        f"`python -m benchmarks.relevance`: {sets}; bundle `{about['bundle']}`, measured {about['measured']}. "
        f"{about['cores']} cores of {about['processor']}; commit {about['commit']}, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + f". Intervals are 95 % bootstrap intervals over questions ({about['bootstrap_draws']} draws).",
    ]
    if results.rankings:
        lines += _rankings(results.rankings)
    if results.users:
        lines += _users(results)
    if results.curve is None or results.curve:
        lines += _curve(results.curve)
    if results.time:
        lines += _time(results.time)
    if results.queries:
        lines += _queries(results.queries)
    if results.prompts:
        lines += _prompts(results.prompts)
    missed = len(results.missed)
    lines += ["", f"{missed} goals missed; they are marked in the tables." if missed else "All goals met."]
    return "\n".join(lines) + "\n"


def _rankings(rows: Sequence[RankingRow]) -> list[str]:
    return [
        *_heading(
            "Rankings for no user",
            "nDCG@10 has gain 2^relevance − 1 and discount log₂(rank + 1); the reciprocal rank is that of the first "
            "candidate with a relevance above 0. Chance is the exact expected value over random orders. The cosine is "
            f"that of the bundle's encoder between question and candidate. Goal: {OF_COSINE:.0%} of its nDCG@10.",
        ),
        *_table(
            ["set", "ranked by", "nDCG@10", "MRR", "share of the cosine's nDCG@10"],
            [[r.questions, r.system, str(r.ndcg), str(r.mrr), _percent(r.of_cosine)] for r in rows],
        ),
    ]


def _users(results: Results) -> list[str]:
    left_out = [
        f"{name}: {style} ({reason})"
        for name, reasons in results.left_out.items()
        for style, reason in reasons.items()
    ]
    both: dict[tuple[str, str], list[bool]] = {}
    for row in results.users:
        both.setdefault((row.questions, row.variant), []).append(row.keeps and row.moves)
    met = ", ".join(
        f"{name}/{variant} {sum(flags)} of {len(flags)}" for (name, variant), flags in both.items()
    )
    return [
        *_heading(
            "Users of style",
            f"Each user judged {JUDGEMENTS} pairs of candidates that differ in one attribute by at least {CLEAR:g} "
            "standard deviation, by that attribute alone, and is measured on the other half of the questions. They "
            "judged with the question as prompt (`prompts`), without any prompt (`texts`), or texts of the other set "
            "with its questions as prompts (`elsewhere`). The shift is the mean attribute of the user's top three "
            "minus that of the population's, over the attribute's standard deviation among the question's candidates, "
            f"in the direction that the user likes. Goals: keep {KEPT:.0%} of the population's nDCG@10, shift {MOVED}.",
        ),
        *_table(
            ["set", "judged", "likes", "nDCG@10", "kept", "", "shift of the top three", ""],
            [
                [
                    row.questions,
                    row.variant,
                    row.style.replace("_", " "),
                    str(row.ndcg),
                    _percent(row.kept),
                    _verdict(passed=row.keeps),
                    str(row.shift),
                    _verdict(passed=row.moves),
                ]
                for row in results.users
            ],
        ),
        "",
        f"Users who meet both goals: {met}.",
        *(["", f"Left out: {'; '.join(left_out)}."] if left_out else []),
    ]


def _curve(points: Sequence[CurvePoint] | None) -> list[str]:
    heading = _heading(
        "The curve of `personalization`",
        "Means over the users of style who judged with prompts.",
    )
    if points is None:
        return [*heading, "", "Not available: the server's rerank requests have no field `personalization`."]
    return [
        *heading,
        *_table(
            ["set", "`personalization`", "nDCG@10", "kept", "shift of the top three"],
            [
                [p.questions, f"{p.personalization:g}", str(p.ndcg), _percent(p.kept), str(p.shift)]
                for p in points
            ],
        ),
    ]


def _time(rows: Sequence[TimeRow]) -> list[str]:
    return [
        *_heading(
            "Time of a request",
            "Requests for no user on one connection, all candidates cached. Ratios are medians over questions, whose "
            f"requests alternate. Goal: at most {MAX_RATIO:g} with a question that was asked before. A new question "
            "has to be encoded first.",
        ),
        *_table(
            ["set", "candidates", "no question", "asked before", "new", "asked before / none", "new / none"],
            [
                [
                    row.questions,
                    f"{row.candidates:.0f}",
                    *(f"{ms:.2f} ms" for ms in (row.none_ms, row.same_ms, row.new_ms)),
                    str(row.same_ratio),
                    str(row.new_ratio),
                ]
                for row in rows
            ],
        ),
    ]


def _queries(rows: Sequence[QueryRow]) -> list[str]:
    return [
        *_heading(
            "Probe: the wrong question",
            "With a question that the candidates do not answer, rankings must not be above chance, or not above those "
            "without a question, which follow style alone (lower end of either interval at most 0). The cosine shows "
            "how much two questions of a set have in common.",
        ),
        *_table(
            ["set", "question sent", "nDCG@10", "above chance", "above none", "", "cosine above chance"],
            [
                [
                    row.questions,
                    row.query,
                    str(row.ndcg),
                    str(row.above_chance),
                    "–" if row.query == NONE else str(row.above_none),
                    "" if row.query == NONE else _verdict(passed=row.passed),
                    "–" if row.cosine_above_chance is None else str(row.cosine_above_chance),
                ]
                for row in rows
            ],
        ),
    ]


def _prompts(rows: Sequence[PromptRow]) -> list[str]:
    return [
        *_heading(
            "Probe: the wrong prompt",
            "Accuracy of P(better ≻ worse) for no user, without the item memory, with each pair's own prompt and with "
            "another prompt of the set. Wrong prompts must not be better (upper end of the gain's interval at least "
            "0; intervals over distinct pairs). The last column is how often a text is preferred, under its own prompt, "
            "to a text that answers another one. The shipped bundle was fitted on parts of these sets.",
        ),
        *_table(
            ["pairs", "number", "right prompt", "wrong prompt", "gain", "", "own answer ≻ another's"],
            [
                [
                    row.pairs,
                    f"{row.number:,}",
                    str(row.right),
                    str(row.wrong),
                    str(row.gain),
                    _verdict(passed=row.passed),
                    "–" if row.own is None else str(row.own),
                ]
                for row in rows
            ],
        ),
    ]


def _heading(title: str, text: str) -> list[str]:
    return ["", f"## {title}", "", text]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", _row(header), _row(["---"] * len(header)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: Figure) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _verdict(*, passed: bool) -> str:
    return "met" if passed else "**missed**"
