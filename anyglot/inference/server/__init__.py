"""`anyglot serve`: a trained model behind OpenAI's HTTP routes, and a web page to talk to it."""
