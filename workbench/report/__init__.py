"""A run as one page to read: pictures, tables, choices, every verdict, and what it takes to run it again."""
