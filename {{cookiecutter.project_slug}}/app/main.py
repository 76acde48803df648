"""The service, put together: read this first."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from app import errors, health, items, logs
# {% if cookiecutter.database != "none" %}
from app.database import Database
# {% endif %}
from app.middleware import Service
from app.settings import Settings


class Welcome(BaseModel):
    """Answer of the root."""

    message: str


async def read_root() -> Welcome:
    """Welcome the caller."""
    return Welcome(message="Hello from FastAPI in a Docker container!")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open the resources that requests find in `request.state`, in this order; close them in reverse."""
    state: dict[str, Any] = {}
    stack = AsyncExitStack()
    async with stack:
        # {% if cookiecutter.database != "none" %}
        state["database"] = await stack.enter_async_context(Database.open(app.state.settings))
        # {% endif %}
        yield state


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service from `settings`, by default from the environment."""
    settings = settings or Settings()
    app = Service(
        title="{{ cookiecutter.project_name | quoted }}",
        description="{{ cookiecutter.description | quoted }}",
        version="0.1.0",
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        lifespan=lifespan,
        responses=errors.RESPONSES,
        exception_handlers=errors.HANDLERS,
    )
    app.state.settings = settings
    app.add_api_route("/", read_root, tags=["root"])
    app.include_router(items.router)
    health.add_routes(app)
    return app


settings = Settings()
logs.configure(settings.log_level.upper(), settings.log_format)
app = create_app(settings)
