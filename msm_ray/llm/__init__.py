"""Language models that answer prompts: vLLM on Ray Data, and a scripted stand-in."""
