"""Every environment variable that the server reads, typed and frozen."""

from ipaddress import IPv4Address, ip_network
from typing import Annotated, Literal

from pydantic import Field, IPvAnyAddress, NonNegativeInt, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# The service, as a module and the name of the ASGI application in it.
SERVICE = "app.main:app"


Seconds = Annotated[int, Field(ge=1, le=86_400)]


class ServerSettings(BaseSettings):
    """The variables of the server; the image sets `PORT` and `WORKERS`, so they have no default."""

    model_config = SettingsConfigDict(
        frozen=True,
        # Compose and CI systems hand over unset variables as empty ones.
        env_ignore_empty=True,
        # A value may be a secret, so errors do not repeat it.
        hide_input_in_errors=True,
    )

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        if value != "*":
            for network in value.split(","):
                ip_network(network.strip())
        return value

    host: IPvAnyAddress = IPv4Address("0.0.0.0")  # noqa: S104 - a container has a network of its own
    """Address to listen on; `::` is IPv6 and, on Linux, IPv4 too."""

    port: int = Field(ge=1, le=65535)
    """Port to listen on."""

    workers: PositiveInt | Literal["auto"]
    """Worker processes; `auto` is one for each CPU that the container may use."""

    web_concurrency: PositiveInt | None = None
    """Worker processes, as hosting platforms set it; overrides `WORKERS`."""

    start_timeout: Seconds = 180
    """Seconds that the service may take to start; then the container ends."""

    worker_timeout: Seconds = 30
    """Seconds after which a worker whose event loop is blocked is replaced; `GRACEFUL_TIMEOUT` + 5 at least."""

    max_requests: NonNegativeInt = 0
    """Requests, and up to a tenth more, after which a worker is replaced; 0 is never."""

    forwarded_allow_ips: str = "127.0.0.1,::1"
    """Proxies whose X-Forwarded-For and -Proto are believed: addresses or networks, by commas."""

    root_path: str = Field("", pattern="^(/[!-~]*[!-.0-~])?$")
    """Path prefix that a proxy strips before it passes a request on, such as /shop."""

    keep_alive: Seconds = 75
    """Seconds that an idle connection is kept; longer than the load balancer's own idle time."""

    read_timeout: Seconds = 20
    """Seconds that a client may take to send a request's head, and each part of its body."""

    write_timeout: Seconds = 300
    """Seconds until a client that reads nothing of its answer is dropped; use some minutes."""

    drain: int = Field(0, ge=0, le=86_400)
    """Seconds of service after SIGTERM, with `/readyz` at 503, until load balancers react."""

    graceful_timeout: Seconds = 6
    """Seconds that running requests get to finish at a stop; then they are cancelled."""
