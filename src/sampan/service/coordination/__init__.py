"""Clients of the stores that configuration and discovery share: etcd and Consul, over their HTTP interfaces."""
