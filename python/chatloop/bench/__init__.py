"""`chatloop bench`: a load generator for the client front."""
