"""A release in a share of the actors: watched, then promoted or revoked."""
