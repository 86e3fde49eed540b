"""A FastAPI route that parses a rerank request and does nothing: `python -m benchmarks.serving.noop_app PORT`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Body(BaseModel):
    """The body of a rerank request."""

    query: str
    documents: list[str]
    user: str | None = None


@app.post("/v1/rerank")
async def rerank(body: Body) -> dict[str, Any]:
    """Count the documents."""
    return {"documents": len(body.documents)}


@app.get("/health")
async def health() -> dict[str, str]:
    """Answer as soon as the server is ready."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
