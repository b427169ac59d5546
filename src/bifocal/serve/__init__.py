"""The service: an HTTP API, a moderator's page, a review queue and a decision log."""
