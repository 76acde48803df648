"""Every environment variable that the service reads, typed and frozen."""

from ipaddress import ip_network
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
# {% if cookiecutter.database != "none" %}
from sqlalchemy import exc, make_url
# {% endif %}
# {% if cookiecutter.database == "postgresql" %}

DATABASE_URL = "postgresql+psycopg://app@localhost/app"
# {% endif %}
# {% if cookiecutter.database == "sqlite" %}

DATABASE_URL = "sqlite:///service.db"
# {% endif %}


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        # Compose and CI systems hand over unset variables as empty ones.
        env_ignore_empty=True,
        # What is wrong with a value may be logged; the value, which may be a secret, may not.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class Settings(_Environment):
    """What the service itself reads; tests pass their own to `create_app`."""

    docs: bool = True
    """Whether /docs and /openapi.json are served."""

    max_body_size: NonNegativeInt = 1_048_576
    """Bytes that a request's body may have; a larger one is answered with 413."""
    # {% if cookiecutter.database != "none" %}

    database_url: str = Field(DATABASE_URL, repr=False)
    """Where the database is, as SQLAlchemy writes it; it may hold the password."""

    database_pool_size: PositiveInt = 5
    """Connections of each worker to the database, at most."""

    database_timeout: PositiveInt = 4
    """Seconds that a request may use the database for; then it is answered with 503."""

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        # Errors of SQLAlchemy and of the driver would show what they take for the host or the port.
        try:
            backend = make_url(value).get_backend_name()
        except (exc.ArgumentError, ValueError):
            backend = ""
        if backend not in {"sqlite", "postgres", "postgresql"} or value.count("@") > 1:
            raise ValueError(
                "must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, with"
                " %40 for an @ in the password"
            )
        return value
    # {% endif %}
    # {% if cookiecutter.database == "postgresql" %}

    database_password: str = Field("", repr=False)
    """Password for the database, if it is not in its URL."""

    database_password_file: str = Field("", repr=False)
    """File that holds the password instead, such as a Docker secret."""

    database_prepare: bool = True
    """Whether the server keeps prepared statements; false behind PgBouncer in transaction mode."""

    development: bool = False
    """Whether this is a developer's machine, where the sample password will do."""
    # {% endif %}


class ServerSettings(_Environment):
    """What the server around it reads, in `gunicorn.conf.py`; the image sets `PORT` and `WORKERS`."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _of_networks(cls, value: str) -> str:
        if value != "*":
            for network in value.split(","):
                ip_network(network.strip())
        return value

    port: int = Field(ge=1, le=65535)
    """Port to listen on, on all IPv4 interfaces."""

    workers: PositiveInt | Literal["auto"]
    """Worker processes; `auto` is one for each CPU that the container may use."""

    web_concurrency: PositiveInt | None = None
    """Worker processes, as hosting platforms set it; overrides `WORKERS`."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least serious level that is logged; DEBUG adds the health checks' requests."""

    forwarded_allow_ips: str = "127.0.0.1,::1"
    """Proxies whose X-Forwarded-For and -Proto are believed: addresses or networks, by commas."""

    root_path: str = Field("", pattern="^(/.*[^/])?$")
    """Path prefix that a proxy strips before it passes a request on, such as /shop."""

    keep_alive: PositiveInt = 75
    """Seconds that an idle connection is kept; longer than the load balancer's own idle time."""

    read_timeout: PositiveInt = 20
    """Seconds that a client may take for a request's head, and for each part of its body."""

    graceful_timeout: PositiveInt = 6
    """Seconds that running requests get to finish in at a stop; then they are cancelled."""

    worker_timeout: PositiveInt = 30
    """Seconds after which a worker whose event loop is blocked is replaced."""

    max_requests: NonNegativeInt = 0
    """Requests, and up to a tenth more, after which a worker is replaced; 0 is never."""
