"""What is said of a finished job: tables and text in Markdown. Knows no model."""
