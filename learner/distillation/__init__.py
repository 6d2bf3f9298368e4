"""Learning from released policies: divergences from them, who they are, and the records that their runs have left."""
