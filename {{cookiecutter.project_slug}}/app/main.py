"""The service, put together: read this first."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from app import errors, health, items
# {% if cookiecutter.database != "none" %}
from app.database import Database, DatabaseUnavailable, answer_unavailable
# {% endif %}
from app.middleware import RequestMiddleware
from app.settings import Settings

router = APIRouter(tags=["root"])


class Welcome(BaseModel):
    """What the root answers."""

    message: str


@router.get("/")
async def read_root() -> Welcome:
    """Welcome the caller."""
    return Welcome(message="Hello from FastAPI in a Docker container!")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open resources in this order and close them in reverse; requests find them in their state."""
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
    app = FastAPI(
        lifespan=lifespan,
        title="{{ cookiecutter.project_name | quoted }}",
        description="{{ cookiecutter.description | quoted }}",
        version="0.1.0",
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        # A redirect to the path with a slash would name the wrong scheme and host behind a proxy.
        redirect_slashes=False,
        responses=errors.RESPONSES,
    )
    app.state.settings = settings
    errors.install(app)
    # {% if cookiecutter.database != "none" %}
    app.add_exception_handler(DatabaseUnavailable, answer_unavailable)
    # {% endif %}
    # FastAPI's own limit would be outside of it, and answer in plain text.
    app.add_middleware(RequestMiddleware, max_body_size=settings.max_body_size)
    app.include_router(router)
    app.include_router(health.router)
    app.include_router(items.router)
    return app


app = create_app()
