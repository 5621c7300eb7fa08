"""Typed settings that follow their source while the process runs: mounted files, etcd, Consul."""
