"""The bundle store: what a user has fetched, in the user's own data folder; nothing gets there without being asked for."""
