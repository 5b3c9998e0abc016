"""What everything stands on: registry, batch, schema, recipe, files, images, errors."""
