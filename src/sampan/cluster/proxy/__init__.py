"""The proxy: the real Envoy, configured by files, gives Services and Ingresses their traffic.

resources.py  builders of Envoy's own configuration; pure
services.py   Service and EndpointSlice -> listeners, clusters, endpoints; pure
ingress.py    Ingress -> one route table; pure
envoy.py      the process, its files and its admin socket
proxy.py      follows the cluster and writes what changed
"""
