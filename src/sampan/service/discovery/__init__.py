"""Who runs where: registration of this process, and the instances of the services it calls."""
