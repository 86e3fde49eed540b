"""The benchmark of gates on planted users whose taste flips with the kind of prompt."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gates
from penchant.models.encoding.hashing import HashingEncoder
from penchant.models.fitting import relevance, tuning

PROMPTS = {
    "code": [f"Python code question about Python code, number {i}" for i in range(6)],
    "advice": [f"Advice on people, friends and family wanted, number {i}" for i in range(6)],
}
SHORT = [f"Try it, {way}." for way in ("slowly", "today", "twice", "alone", "again")]
LONG = [text + " There is more than one way to go about it, so look at each of them." * 3 for text in SHORT]


def write_set(folder: Path, name: str, users: int, number: int) -> None:
    """Write a set of users who like long answers to one kind of prompt and short ones to the other."""
    rng = np.random.default_rng(6)
    rows = []
    for u in range(users):
        likes_long = ("code", "advice")[u % 2]
        for i in range(number):
            kind = list(PROMPTS)[i % 2]
            texts = [str(rng.choice(LONG)), str(rng.choice(SHORT))]
            chosen, rejected = texts if kind == likes_long else reversed(texts)
            context = str(rng.choice(PROMPTS[kind]))
            rows.append({"user": f"u{u}", "context": context, "chosen": chosen, "rejected": rejected})
    (folder / name).mkdir()
    with gzip.open(folder / name / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, rows)))


def test_every_set_is_measured_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "load_encoder", HashingEncoder)
    monkeypatch.setattr(gates, "RANKS", (0,))
    monkeypatch.setattr(relevance, "MAX_COMPARISONS", 100)
    monkeypatch.setattr(tuning, "FAMILIES", {"length": (0.1,)})
    monkeypatch.setattr(tuning, "GATED_FAMILIES", ("length",))
    monkeypatch.setattr(tuning, "GATE_SIZES", (1,))
    sets = tmp_path / "sets"
    sets.mkdir()
    write_set(sets, "flipping", users=140, number=30)
    write_set(sets, "small", users=12, number=6)
    write_set(sets, "tiny", users=4, number=6)
    gates.main(sets, None, tmp_path / "cache", tmp_path / "results" / "gates")
    found = json.loads((tmp_path / "results" / "gates.json").read_text("utf-8"))["sets"]
    assert found["tiny"] == {"skipped": "hardly any user judged texts of several prompts"}
    assert "held-out users are too few" in found["small"]["skipped"]
    flipping = found["flipping"]
    assert flipping["prompts"] == 12
    assert flipping["chosen"] == 1
    assert [gate["gate"] for gate in flipping["gates"]] == [1]
    assert flipping["gates"][0]["gain"] > max(0.2, 4 * flipping["gates"][0]["error"])
    lines = (tmp_path / "results" / "gates.md").read_text("utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| flipping", "| small", "| tiny"]
    assert lines[2].endswith("| yes |")
