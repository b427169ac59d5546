"""Alembic's entry: runs the steps on the connection that `DecisionStore.migrate` hands in."""

from alembic import context

from bifocal.serve.log.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
