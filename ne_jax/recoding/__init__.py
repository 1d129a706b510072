"""One file a design, and `designs`, the table that says what each needs, costs and writes."""
