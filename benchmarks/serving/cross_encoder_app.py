"""A CrossEncoder behind FastAPI as people write it: `python -m benchmarks.serving.cross_encoder_app DIR PORT DEVICE`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

app = FastAPI()
model = CrossEncoder(sys.argv[1], device=sys.argv[3]) if __name__ == "__main__" else None


class Body(BaseModel):
    """What a rerank request holds."""

    query: str
    documents: list[str]


@app.post("/rerank")
def rerank(body: Body) -> dict[str, Any]:
    """Documents by descending score; a `def` endpoint, so that the event loop goes on."""
    if model is None:
        raise RuntimeError("no model was loaded")
    ranks = model.rank(body.query, body.documents)
    return {
        "results": [{"index": int(one["corpus_id"]), "relevance_score": float(one["score"])} for one in ranks]
    }


@app.get("/health")
def health() -> dict[str, str]:
    """Is ready as soon as it answers."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
