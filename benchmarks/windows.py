"""What windows cost and what they gain: `python -m benchmarks.windows --data FOLDER`.

Cost: time per text that fills 1, 2, 4 or 8 windows, relative to one window. Gain, without any user or fitted model:
nDCG@10 of the cosine between question and document on Cranfield, and how often an answer is closer to its own prompt
than to the prompts of other answers. A text of several windows is as close to a prompt as its closest window; the mean
of the windows is measured too.
"""

import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.machine import machine
from penchant.models.encoding.encoder import Encoder
from penchant.models.encoding.loading import load_encoder
from penchant.models.encoding.match import LATER_WINDOW
from penchant.models.judgements.files import read

WINDOWS: Final = (1, 2, 4, 8)
QUESTIONS: Final = "cranfield/questions.jsonl.gz"
ANSWERS: Final = ("crowdrag25_pairwise", "expertqa_edits")
DEPTH: Final = 10
_TIMED_TEXTS: Final = 4
_BATCH: Final = 64
_WORDS: Final = (
    "The harbour was quiet that morning and a few boats rocked against the wall while somebody read . "
)

Scores = NDArray[np.float64]
Load = Callable[[int], Encoder]


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing; the best one counts.")] = 5,
    out: Annotated[Path, typer.Option(help="Path of the results, without extension.")] = Path(
        "benchmarks/results/windows"
    ),
) -> None:
    """Measure cost and gain of windows, and write JSON and Markdown."""
    results = measure(lambda n: load_encoder(max_windows=n), data, rounds=rounds)
    results["about"] = machine(("torch", "numpy", "tokenizers"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(format_markdown(results), "utf-8")
    print(out.with_suffix(".md").read_text("utf-8"))


def measure(load: Load, data: Path, *, rounds: int) -> dict[str, Any]:
    """Return all figures.

    Args:
        load: Function that loads the encoder with a largest number of windows.
        data: Folder of the data sets.
        rounds: Rounds of timing.
    """
    encoders = {n: load(n) for n in WINDOWS}
    first, last = encoders[WINDOWS[0]], encoders[WINDOWS[-1]]
    results: dict[str, Any] = {
        "encoder": {"name": first.name, "backend": first.backend, "max_tokens": first.max_tokens},
        "cost": measure_cost(encoders, rounds),
        "questions": measure_questions(first, last, data / QUESTIONS),
        "answers": {},
    }
    for name in ANSWERS:
        results["answers"][name] = measure_answers(first, last, data / name / "data.jsonl.gz")
    return results


def measure_cost(encoders: Mapping[int, Encoder], rounds: int) -> list[dict[str, float]]:
    """Return the seconds per text by number of windows. All encoders read the same texts, which fill every window."""
    text = _WORDS * (encoders[max(encoders)].max_tokens * max(encoders) // len(_WORDS.split()) + 1)
    texts = [f"{number} {text}" for number in range(_TIMED_TEXTS)]
    best = dict.fromkeys(encoders, np.inf)
    tokens = {n: int(encoder.encode(texts).tokens.sum()) // len(texts) for n, encoder in encoders.items()}
    for _ in range(rounds):
        for n, encoder in encoders.items():  # in turns, since other processes slow all of them down
            started = time.perf_counter()
            encoder.encode(texts)
            best[n] = min(best[n], (time.perf_counter() - started) / len(texts))
    return [
        {
            "windows": n,
            "tokens": tokens[n],
            "seconds_per_text": best[n],
            "relative": best[n] / best[min(encoders)],
        }
        for n in encoders
    ]


class Embeddings:
    """Embeddings of texts by one encoder that cuts texts and by another that reads them in windows.

    Args:
        single: Encoder with one window.
        several: Encoder with several windows. Texts of one window have equal embeddings from both.
        texts: Distinct texts.

    Attributes:
        rows: Row of each text.
        is_long: Whether a text has several windows, `[n]`.
        cut: Embeddings of the texts' first window's worth of tokens, `[n, dim]`.
        mean: Mean embeddings, `[n, dim]`.
        windows: Embeddings of the windows of each text, n arrays `[w, dim]`.
    """

    def __init__(self, single: Encoder, several: Encoder, texts: Sequence[str]) -> None:
        self.rows = {text: i for i, text in enumerate(texts)}
        means, self.windows = [], []
        for start in range(0, len(texts), _BATCH):
            encoding = several.encode(texts[start : start + _BATCH])
            means.append(encoding.embeddings)
            self.windows += np.split(encoding.windows, np.cumsum(encoding.counts)[:-1])
        self.mean = np.concatenate(means)
        self.is_long = np.array([len(windows) > 1 for windows in self.windows])
        self.cut = self.mean.copy()
        long = np.flatnonzero(self.is_long)
        for start in range(0, len(long), _BATCH):
            rows = long[start : start + _BATCH]
            self.cut[rows] = single.encode([texts[i] for i in rows]).embeddings

    def compute_cosines(self, queries: NDArray[np.float32]) -> dict[str, Scores]:
        """Return the cosines of all texts to queries, `[n, n_queries]`, by way of reading."""
        each = [windows @ queries.T for windows in self.windows]
        best = np.stack([cosines.max(axis=0) for cosines in each])
        for cosines in each:
            cosines[1:] -= LATER_WINDOW
        match = np.stack([cosines.max(axis=0) for cosines in each])
        return {"cut": self.cut @ queries.T, "mean": self.mean @ queries.T, "best": best, "match": match}


def measure_questions(single: Encoder, several: Encoder, path: Path) -> dict[str, Any]:
    """Return nDCG@10 of the cosine between question and document, by way of reading a document."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        questions = [json.loads(line) for line in lines]
    embeddings = Embeddings(
        single, several, list(dict.fromkeys(text for question in questions for text in question["documents"]))
    )
    queries = several.encode([question["query"] for question in questions]).embeddings
    cosines = embeddings.compute_cosines(queries)
    values: dict[str, list[float]] = {name: [] for name in cosines}
    for number, question in enumerate(questions):
        rows = [embeddings.rows[text] for text in question["documents"]]
        for name, own in cosines.items():
            values[name].append(ndcg(own[rows, number], np.asarray(question["relevance"], float)))
    gains = np.array(values["match"]) - np.array(values["cut"])
    return {
        "questions": len(questions),
        "documents": len(embeddings.rows),
        "long": int(embeddings.is_long.sum()),
        "ndcg": {name: float(np.mean(own)) for name, own in values.items()},
        "gain": float(gains.mean()),
        "gain_error": float(gains.std(ddof=1) / np.sqrt(len(gains))),
    }


def ndcg(scores: Scores, relevance: Scores, depth: int = DEPTH) -> float:
    """Return nDCG with gain 2^relevance − 1; 0 if nothing is relevant (Järvelin and Kekäläinen 2002; Burges 2005)."""
    discounts = 1 / np.log2(np.arange(2, min(depth, len(scores)) + 2))
    gains = 2.0**relevance - 1
    ideal = float(np.sort(gains)[::-1][: len(discounts)] @ discounts)
    ranked = gains[np.argsort(-scores, kind="stable")][: len(discounts)]
    return float(ranked @ discounts) / ideal if ideal > 0 else 0.0


def measure_answers(single: Encoder, several: Encoder, path: Path) -> dict[str, Any]:
    """Return how often a long answer is closer to its own prompt than to others, by way of reading the answer.

    `pairs` is the share of other prompts that are farther away, and `first` the share of answers whose own prompt is
    the closest of all.
    """
    items = list(
        dict.fromkeys((judgement.context, text) for judgement in read(path) for text in judgement.texts)
    )
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in items))}
    embeddings = Embeddings(single, several, list(dict.fromkeys(text for _, text in items)))
    cosines = embeddings.compute_cosines(several.encode(list(prompts)).embeddings)
    long = [(prompts[prompt], embeddings.rows[text]) for prompt, text in items]
    long = [(own, row) for own, row in long if embeddings.is_long[row]]
    pairs: dict[str, float] = {}
    first: dict[str, float] = {}
    for name, matrix in cosines.items():
        ranks = [place_of(matrix[row], own) for own, row in long]
        pairs[name] = float(1 - np.mean(ranks) / (len(prompts) - 1)) if long else float("nan")
        first[name] = float(np.mean(np.array(ranks) < 1)) if long else float("nan")
    return {
        "answers": len(items),
        "long": len(long),
        "prompts": len(prompts),
        "pairs": pairs,
        "first": first,
    }


def place_of(cosines: Scores, own: int) -> float:
    """Return how many prompts are closer than a text's own one. A tie counts half."""
    closer = np.count_nonzero(cosines > cosines[own])
    return closer + (np.count_nonzero(cosines == cosines[own]) - 1) / 2


def format_markdown(results: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    about, encoder, questions = results["about"], results["encoder"], results["questions"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Long texts in windows",
        "",
        f"`python -m benchmarks.windows --data FOLDER`: encoder {encoder['name']} on {encoder['backend']}, "
        f"{encoder['max_tokens']} tokens a window, {about['processor']}; commit {about['commit']}, {versions}.",
        "",
        "## Cost",
        "",
        "Texts that fill every window, four at a time, best round. A text that fits into one window costs the same "
        "whatever the limit.",
        "",
        "| windows | tokens | ms a text | relative |",
        "|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['windows']} | {row['tokens']:,} | {1000 * row['seconds_per_text']:.0f} | {row['relative']:.2f} |"
        for row in results["cost"]
    ]
    names = {
        "cut": "1 window",
        "mean": "8 windows, mean",
        "best": "8 windows, best window",
        "match": f"8 windows, best window, later ones less {LATER_WINDOW}",
    }
    lines += [
        "",
        "## Gain",
        "",
        "Cosine between prompt and text, with no user and nothing fitted. Cranfield: nDCG@10 over "
        f"{questions['questions']} questions and {questions['documents']:,} documents, {questions['long']} of them "
        "longer than a window. Answers: those longer than a window; share of other prompts that are farther from the "
        "answer than its own, and share of answers whose own prompt is the closest of all.",
        "",
        "| read as | Cranfield nDCG@10 |"
        + "".join(
            f" {name} ({own['long']} long answers): pairs | closest |"
            for name, own in results["answers"].items()
        ),
        "|---|--:|" + "--:|--:|" * len(results["answers"]),
    ]
    for key, name in names.items():
        cells = [f"{questions['ndcg'][key]:.4f}"]
        for own in results["answers"].values():
            cells += [f"{own['pairs'][key]:.4f}", f"{own['first'][key]:.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The last line is how the match feature reads a text. Its gain over one window on Cranfield: "
        f"{questions['gain']:+.4f} ± {questions['gain_error']:.4f} nDCG@10 (standard error over questions).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
