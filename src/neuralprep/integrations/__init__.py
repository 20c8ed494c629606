"""Other workflow tools: descriptions of the verbs, made from the parsers of the command line so that none can drift."""
