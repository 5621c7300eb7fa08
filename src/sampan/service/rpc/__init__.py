"""gRPC beside HTTP: the server, its interceptors, and clients of other services."""
