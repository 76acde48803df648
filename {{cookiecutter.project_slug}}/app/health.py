"""Health endpoints for orchestrators, load balancers and people."""

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
# {% if cookiecutter.database != "none" %}

from app.database import RequiresDatabase
# {% endif %}

PATHS = frozenset({"/health", "/livez", "/readyz"})


class Health(BaseModel):
    """The service is well."""

    status: Literal["healthy"] = "healthy"


# Both are `async`, so that they answer while every thread is busy with slow endpoints.


async def live() -> Health:
    """Tell that the process works; if this fails, a restart helps."""
    return Health()


async def ready() -> Health:
    """Tell that requests can be served; if this fails, waiting helps."""
    return Health()


def add_routes(app: FastAPI) -> None:
    """Add the routes directly: FastAPI matches the routes of an included router twice."""
    app.add_api_route("/health", live, name="health", tags=["health"])
    app.add_api_route("/livez", live, tags=["health"])
    app.add_api_route(
        "/readyz",
        ready,
        tags=["health"],
        # {% if cookiecutter.database != "none" %}
        dependencies=[RequiresDatabase],
        # {% endif %}
    )
