"""The decision log and the review queue, in SQLite or PostgreSQL, and what is kept while they are away."""
