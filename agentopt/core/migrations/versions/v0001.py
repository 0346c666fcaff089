"""The first version: databases of agentopt 0.1.0, which had no versions, have these tables, or some of them."""

revision, down_revision = "0001", None


def upgrade() -> None:
    """Do nothing: no table changed since 0.1.0, and those that are missing are created."""
