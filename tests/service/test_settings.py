"""Settings, and the values with which the server refuses to start."""

import pytest
from pydantic import SecretStr, ValidationError

from penchant.models.bundle import BundleError
from penchant.service.bundles.loading import load_bundle
from penchant.service.claims import StartError, check_exposure
from penchant.service.server import run
from penchant.service.settings import Settings


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PENCHANT_PORT", "9000")
    monkeypatch.setenv("PENCHANT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PENCHANT_API_KEY", "secret")
    monkeypatch.setenv("PENCHANT_API_KEYS", '{"acme": "other"}')
    monkeypatch.setenv("PENCHANT_MAX_CANDIDATES", "5")
    monkeypatch.setenv("PENCHANT_LOG_LEVEL", "debug")
    monkeypatch.setenv("PENCHANT_BUNDLE", "")
    assert Settings().personalization == 1
    monkeypatch.setenv("PENCHANT_PERSONALIZATION", "0.25")
    settings = Settings()
    assert (settings.port, settings.data_dir, settings.max_candidates) == (9000, tmp_path, 5)
    assert settings.get_tenant_keys() == {"acme": "other", "default": "secret"}
    assert (settings.log_level, settings.bundle) == ("DEBUG", None)
    assert settings.personalization == 0.25
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "x"),
        ("API_KEY", "  "),
        ("API_KEYS", '{"acme": ""}'),
        ("MAX_CANDIDATES", "0"),
        ("LOG_LEVEL", "loud"),
        ("PERSONALIZATION", "-0.1"),
        ("PERSONALIZATION", "1.1"),
        ("PERSONALIZATION", "nan"),
        ("PERSONALIZATION", "all"),
    ],
)
def test_invalid_settings_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"PENCHANT_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_beyond_loopback_a_key_is_needed(host, tmp_path):
    with pytest.raises(StartError, match="PENCHANT_API_KEY"):
        run(Settings(host=host, data_dir=tmp_path))
    check_exposure(Settings(host=host, api_key=SecretStr("k")))
    check_exposure(Settings(host=host, api_keys={"acme": SecretStr("k")}))
    check_exposure(Settings(host=host, allow_open=True))


def test_a_missing_bundle_is_named(tmp_path):
    with pytest.raises(StartError, match="bundle cannot be loaded") as failure:
        load_bundle(Settings(bundle=tmp_path / "nothing"))
    assert isinstance(failure.value.__cause__, BundleError)
