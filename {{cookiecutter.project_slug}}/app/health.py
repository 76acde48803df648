"""Health: what orchestrators, load balancers and people ask for."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
# {% if cookiecutter.database != "none" %}

from app.database import RequiresDatabase
# {% endif %}

router = APIRouter(tags=["health"])

PATHS = frozenset({"/health", "/livez", "/readyz"})


class Health(BaseModel):
    """That the service is well."""

    status: Literal["healthy"] = "healthy"


# All of them are `async`, so that they answer while every thread is busy with slow endpoints.


@router.get("/health")
@router.get("/livez")
async def live() -> Health:
    """Tell that the process works; if this fails, a restart helps."""
    return Health()


@router.get(
    "/readyz",
    # {% if cookiecutter.database != "none" %}
    dependencies=[RequiresDatabase],
    # {% endif %}
)
async def ready() -> Health:
    """Tell that requests can be served; if this fails, waiting helps."""
    return Health()
