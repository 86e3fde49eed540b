"""A whole server on loopback for what talks to it as a stranger does: sockets and store, but no weights."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _nobody_s_settings() -> Iterator[None]:
    """Tests see no `PENCHANT_*` of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PENCHANT_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. Tests share it, so each takes users of its own."""
    # Here, so that tests of the light half do not load the heavy one.
    import uvicorn

    from penchant.models.encoder import HashingEncoder
    from penchant.models.features import FeatureExtractor
    from penchant.models.testing import tiny_bundle
    from penchant.service.app import create_app
    from penchant.service.settings import Settings

    extractor = FeatureExtractor(HashingEncoder())
    settings = Settings(data_dir=tmp_path_factory.mktemp("live"), log_level="WARNING")
    app = create_app(settings, extractor=extractor, bundle=tiny_bundle(extractor))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start: its log says why"
            thread.join(timeout=0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()
