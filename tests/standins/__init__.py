"""Servers on loopback that stand in for the sites that the bakery talks to."""
