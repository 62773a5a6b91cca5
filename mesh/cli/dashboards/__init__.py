"""`mesh dashboards`: what Prometheus and Grafana need to show a mesh."""
