"""Decide which weights a command uses: base, adapter, tokenizer, merged model."""
