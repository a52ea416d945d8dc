"""Networks as programs that run without the code of their model: traced, written in a form of others, checked."""
