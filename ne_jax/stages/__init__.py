"""The steps of the main job: the only folder that knows config, workdir and processes together."""
