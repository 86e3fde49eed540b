"""Time until an encoder is ready in a fresh process, and its memory."""

import json
import subprocess
import sys
from typing import Any, Final

_START: Final = """
import json, sys, time
start = time.perf_counter()
from penchant.models.encoding.loading import load_encoder
encoder = load_encoder(backend=sys.argv[1], precision="float32", threads=int(sys.argv[2]), device=sys.argv[3])
encoder.encode(["ready"])
ready = time.perf_counter() - start
texts = ["word " * n for n in range(1, 250, 2)]
for _ in range(2):
    encoder.encode(texts)
status = open("/proc/self/status").read()
rss = int(status.split("VmRSS:")[1].split()[0]) * 1024
print(json.dumps({"backend": encoder.backend, "seconds": ready, "rss_bytes": rss, "torch": "torch" in sys.modules}))
"""


def starts(threads: int, device: str) -> list[dict[str, Any]]:
    """Return seconds from start to the first vector, and memory after work, in fresh processes. A conversion exists."""
    found = []
    for backend in ("torch", "openvino") if device == "cpu" else ("torch",):
        command = [sys.executable, "-c", _START, backend, str(threads), device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            found.append(dict(json.loads(done.stdout)))
    return found
