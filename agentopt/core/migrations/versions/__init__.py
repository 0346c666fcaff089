"""The scripts, by revision."""
