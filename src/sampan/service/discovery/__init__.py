"""Where the instances of a service are: registration, watching and balancing over etcd, Consul and EndpointSlices."""
