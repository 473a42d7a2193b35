"""Inside the model: what its vectors say, what it reads token by token, what a shift does to it, what writes it."""
