"""Every environment variable that the service reads, typed and frozen."""

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
# {% if cookiecutter.database == "postgresql" %}

DATABASE_URL = "postgresql+psycopg://app@localhost/app"
URL_FORM = "postgresql://USER:PASSWORD@HOST/NAME, with %40 for an @ in the password"
# {% endif %}
# {% if cookiecutter.database == "sqlite" %}

DATABASE_URL = "sqlite:///service.db"
URL_FORM = "sqlite:///FILE"
# {% endif %}


class Settings(BaseSettings):
    """The variables of the service; tests pass their own to `create_app`."""

    model_config = SettingsConfigDict(
        frozen=True,
        # Compose and CI systems hand over unset variables as empty ones.
        env_ignore_empty=True,
        # Log the rule that a value breaks, not the value, which may be a secret.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _in_small_letters(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious level that is logged; at debug, libraries still log INFO and above."""

    log_format: Literal["json", "console"] | None = None
    """Format of the log: json or console; by default console on a terminal, else json."""

    docs: bool = True
    """Whether /docs and /openapi.json are served."""

    max_body_size: int = Field(1_048_576, ge=0)
    """Bytes that a request's body may have; a larger one is answered with 413."""
    # {% if cookiecutter.database != "none" %}

    database_url: str = Field(DATABASE_URL, repr=False)
    """URL of the database, in SQLAlchemy's form; it may hold the password."""

    database_pool_size: int = Field(5, ge=1)
    """Connections of each worker to the database, at most; `/readyz` has one more."""

    database_timeout: int = Field(4, ge=1)
    """Seconds for one call of the database; then the answer is 503."""

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        from sqlalchemy import exc, make_url

        # Errors of SQLAlchemy and of the driver would show parts of the URL as host or port.
        try:
            url = make_url(value)
        except (exc.ArgumentError, ValueError):
            url = make_url("none://")
        kind = url.get_backend_name()
        # A database in memory would be another one for each connection.
        no_file = not url.database or url.database.startswith((":", "file:")) or url.host
        wrong = no_file if kind == "sqlite" else value.count("@") > 1
        if wrong or not URL_FORM.startswith("postgresql:" if kind == "postgres" else f"{kind}:"):
            raise ValueError(f"must be {URL_FORM}")
        return value
    # {% endif %}
    # {% if cookiecutter.database == "sqlite" %}

    migrate_at_start: bool = True
    """Whether a start brings the schema up to date."""
    # {% endif %}
    # {% if cookiecutter.database == "postgresql" %}

    database_password: str = Field("", repr=False)
    """Password for the database, if it is not in its URL."""

    database_password_file: str = Field("", repr=False)
    """File that holds the password instead, such as a Docker secret."""

    database_prepare: bool = True
    """Whether the server keeps prepared statements; false behind PgBouncer in transaction mode."""

    development: bool = False
    """Whether this is a developer's machine, which accepts the sample password."""
    # {% endif %}
