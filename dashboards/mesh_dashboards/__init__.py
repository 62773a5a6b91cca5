"""What Prometheus and Grafana need to show a mesh: dashboards, rules and runbooks."""
