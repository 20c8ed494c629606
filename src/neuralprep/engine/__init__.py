"""The engine: from inputs on disk to finished scan folders, whatever happens on the way."""
