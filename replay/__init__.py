"""Trajectories: layout, durable store, tables, rate limiter, service and client. Payloads stay opaque on the way in."""
