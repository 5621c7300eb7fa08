"""gRPC: the server beside HTTP, and stubs of the services that are called. grpcio is imported in this room alone.

binding.py      what a process adds when its service speaks gRPC, or calls one that does
server.py       the server as a component of the lifecycle
handlers.py     what every call gets, in one pass around the handler
guarding.py     a call as the guards of HTTP see it
health.py       grpc.health.v1 and reflection
client.py       stubs over a shared channel
retrying.py     which methods may be repeated, as gRPC's service config
credentials.py  TLS for both sides
codes.py        gRPC status codes and HTTP's
"""
