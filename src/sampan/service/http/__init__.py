"""HTTP in front of the user's ASGI application: one middleware, three endpoints, one server."""
