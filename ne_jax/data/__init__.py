"""Pictures of any kind of file as pixels, and how a model prepares them."""
