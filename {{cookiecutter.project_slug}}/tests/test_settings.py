"""Every environment variable: read, checked, and described where people look."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pydantic_core import to_json

from app.main import create_app
from app.settings import Settings
from server.settings import ServerSettings

ROOT = Path(__file__).parents[1]
FIELDS = Settings.model_fields | ServerSettings.model_fields


def to_text(value: object) -> str:
    """Return a default in small letters, as the environment has it: a list as JSON, for example."""
    return to_json(value).decode().strip('"').lower()


DOCUMENTED = {
    name.upper(): "" if field.is_required() or field.default is None else to_text(field.default)
    for name, field in FIELDS.items()
}


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BODY_SIZE", "10")
    monkeypatch.setenv("DOCS", "")
    settings = Settings()
    assert (settings.max_body_size, settings.docs) == (10, True)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().docs = False  # type: ignore[misc]


class ShopSettings(Settings):
    """Settings that an owner may add."""

    currencies: list[str]
    rates: dict[str, float]
    tags: set[str]
    key: bytes
    patience: timedelta


def test_a_setting_may_have_any_type(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CURRENCIES": '["EUR"]',
        "RATES": '{"EUR": 1.5}',
        "TAGS": '["a", "a"]',
        "KEY": "s3cr3t",
        "PATIENCE": "PT5S",
    }.items():
        monkeypatch.setenv(name, value)
    shop = ShopSettings(**dict(settings))
    assert (shop.currencies, shop.rates, shop.tags) == (["EUR"], {"EUR": 1.5}, {"a"})
    assert (shop.key, shop.patience) == (b"s3cr3t", timedelta(seconds=5))
    with TestClient(create_app(shop)) as client:
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("value", ["Warning", "WARNING", "warning"])
def test_the_level_may_be_written_in_any_case(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", value)
    assert Settings().log_level == "warning"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("WEB_CONCURRENCY", "auto"),
        ("ROOT_PATH", "shop/"),
        ("HOST", "localhost"),
        ("START_TIMEOUT", "0"),
        ("START_TIMEOUT", "86401"),
        ("DRAIN", "-1"),
        ("DRAIN", "86401"),
        ("FORWARDED_ALLOW_IPS", "proxy"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "8000")
    monkeypatch.setenv("WORKERS", "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        ServerSettings()
    assert {problem["loc"][0] for problem in caught.value.errors()} == {name.lower()}
    assert "input_value" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "1"),
        ("PORT", "65535"),
        ("DRAIN", "86400"),
        ("START_TIMEOUT", "1"),
        ("START_TIMEOUT", "86400"),
        ("FORWARDED_ALLOW_IPS", "*"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1"),
        ("WEB_CONCURRENCY", ""),
    ],
)
def test_a_good_value_is_accepted_and_does_not_change(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "8000")
    monkeypatch.setenv("WORKERS", "1")
    monkeypatch.setenv(name, value)
    settings = ServerSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.workers = 2  # type: ignore[misc]
# {% if cookiecutter.database != "none" %}


def test_an_invalid_url_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite = Settings.model_fields["database_url"].default.startswith("sqlite")
    other_kind = "postgresql://app:s3cr3t@host/app" if sqlite else "sqlite:///s3cr3t.db"
    for url in "app:s3cr3t@host/app", "mysql://app:s3cr3t@host/app", other_kind:
        monkeypatch.setenv("DATABASE_URL", url)
        with pytest.raises(ValidationError, match="database_url") as caught:
            Settings()
        assert "s3cr3t" not in str(caught.value)
# {% endif %}
# {% if cookiecutter.database == "postgresql" %}


@pytest.mark.parametrize("password", ["half@s3cr3t", "half@:s3cr3t", "half@/s3cr3t", "@"])
def test_a_password_is_not_taken_for_a_host(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{password}@localhost/app")
    with pytest.raises(ValidationError, match="database_url") as caught:
        Settings()
    assert "s3cr3t" not in str(caught.value)
# {% endif %}


def test_the_readme_lists_every_variable_and_its_default() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \|\s*(.*?)\s*\|", readme, re.MULTILINE)
    documented = {name: default.strip("`").lower() for name, default in rows}
    image = {"PORT", "WORKERS"}
    assert documented.keys() == DOCUMENTED.keys()
    assert {k: v for k, v in documented.items() if k not in image} == {
        k: v for k, v in DOCUMENTED.items() if k not in image
    }


def test_the_example_lists_every_variable_and_its_default() -> None:
    text = (ROOT / ".env.example").read_text("utf-8")
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert {name for _, name, _ in lines} == DOCUMENTED.keys()
    defaults = {name: value.lower() for off, name, value in lines if off}
    assert defaults.items() <= DOCUMENTED.items()
