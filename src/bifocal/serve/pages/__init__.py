"""The moderator's page: templates, style and script lie here, `routes` fills them."""
