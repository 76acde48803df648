"""The service, put together: read this first."""

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from app import errors, health, items, logs
# {% if cookiecutter.database != "none" %}
from app.database import install as install_database
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


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service from `settings`, by default from the environment."""
    settings = settings or Settings()
    app = FastAPI(
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
    errors.install(app)
    # {% if cookiecutter.database != "none" %}
    install_database(app, settings)
    # {% endif %}
    # FastAPI's own limit would be outside of it, and answer in plain text.
    app.add_middleware(RequestMiddleware, max_body_size=settings.max_body_size)
    app.include_router(router)
    app.include_router(health.router)
    app.include_router(items.router)
    return app


logs.configure(Settings().log_level)
app = create_app()
