"""A typical CrossEncoder behind FastAPI: `python -m benchmarks.serving.cross_encoder_app DIR PORT DEVICE`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

app = FastAPI()
model = CrossEncoder(sys.argv[1], device=sys.argv[3]) if __name__ == "__main__" else None


class Body(BaseModel):
    """The body of a rerank request."""

    query: str
    documents: list[str]


@app.post("/rerank")
def rerank(body: Body) -> dict[str, Any]:
    """Return documents by descending score. The endpoint is a plain `def`, so it does not block the event loop."""
    if model is None:
        raise RuntimeError("no model was loaded")
    ranks = model.rank(body.query, body.documents)
    return {
        "results": [{"index": int(one["corpus_id"]), "relevance_score": float(one["score"])} for one in ranks]
    }


@app.get("/health")
def health() -> dict[str, str]:
    """Answer as soon as the server is ready."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
