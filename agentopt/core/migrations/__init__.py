"""The versions of the tables, as Alembic's scripts: each changes the tables of the version before it.

Tables and indexes that are missing are created by `core.database.create_tables`, without a new version. A script is
needed if a table that exists must change: add it to `versions`, and set `core.database.SCHEMA` to its revision. It uses
`alembic.op` alone, because the tables that the package defines are those of the newest version.
"""
