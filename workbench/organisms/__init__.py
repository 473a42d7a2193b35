"""The embedded models: the small world they live in, what they read, and how they are trained."""
