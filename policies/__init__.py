"""What an agent is: its specification, networks, artifact, signed release, inference, and its way to the actors."""
