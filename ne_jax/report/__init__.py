"""The only folder that draws and writes pages."""
