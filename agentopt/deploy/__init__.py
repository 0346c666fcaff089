"""A candidate put to use: served behind the OpenAI API, or exported."""
