"""The service's HTTP: routes, bodies, keys, limits, and the connection beneath."""
