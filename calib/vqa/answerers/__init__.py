"""Models that answer: frozen backbones and prompts, Hugging Face models, recorded answers of any others."""
