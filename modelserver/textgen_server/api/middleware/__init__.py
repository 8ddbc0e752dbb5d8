"""Pure ASGI middleware; app.py lists it. Nothing here may cost per message of a stream."""
