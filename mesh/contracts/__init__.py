"""Contracts: what caller and callee share of a service. Pure: no I/O, no clock."""
