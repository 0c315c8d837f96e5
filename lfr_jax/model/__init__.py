"""One decoder for GPT-2 and Llama, text from it, and weights of others."""
