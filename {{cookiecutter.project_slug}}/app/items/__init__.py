"""Items, an example feature: use this package as a pattern, then delete it."""

from app.items.routes import router

__all__ = ["router"]
