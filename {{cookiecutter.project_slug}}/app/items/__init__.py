"""Items, the example of what this service does: copy this package, then delete it."""

from app.items.routes import router

__all__ = ["router"]
