"""Several servers: Kubernetes, Ray, and one version after another."""
