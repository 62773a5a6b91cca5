"""`mesh dashboards`: what is shipped for Prometheus and Grafana, to where it is used."""
