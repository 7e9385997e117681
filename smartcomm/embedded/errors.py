class EmbeddedError(Exception):
    """A reason why the services cannot run, as a sentence for whoever starts them."""
